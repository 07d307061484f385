"""Both clients with real nodes."""

from __future__ import annotations

import asyncio
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import Any

import pytest
import trustme
from conftest import Make
from opentelemetry.sdk.trace import TracerProvider
from servers import PATIENCE, Answer, Node, Stub, answering, dripping, passing_on, silent, stub

from tidegate import AnswerError, AsyncClient, Check, Client, RejectedError
from tidegate._core import MAX_ANSWER, MAX_HEADER, PAUSE

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_exactly_the_limit_is_allowed_and_the_denial_has_its_headers(make: Make, a_node: Node) -> None:
    asker = make(a_node.url)
    first = asker.slow()
    limit = first.limits[0]
    assert (first.allowed, first.status, first.source) == (True, 200, "node")
    assert (limit.name, limit.limit, limit.remaining, limit.window_ms) == ("five-an-hour", 5, 4, 3_600_000)
    allowed, denial = asker.use_up()
    assert (allowed, denial.status, denial.limits[0].refused) == (4, 429, True)
    assert denial.retry_after_ms is not None and 0 < denial.retry_after_ms <= 3_600_000
    assert set(denial.headers) == {"RateLimit", "RateLimit-Policy", "Retry-After"}


def test_exactly_the_limit_is_allowed_to_many_threads(a_node: Node) -> None:
    with Client([a_node.url], deadline=PATIENCE) as client, ThreadPoolExecutor(20) as threads:
        decisions = threads.map(lambda _: client.check("api", {"kind": "slow", "user": "u1"}), range(40))
        assert sum(decision.allowed for decision in decisions) == 5


def test_exactly_the_limit_is_allowed_to_many_tasks(a_node: Node) -> None:
    async def ask_at_once() -> int:
        async with AsyncClient([a_node.url], deadline=PATIENCE) as client:
            tasks = [client.check("api", {"kind": "slow", "user": "u1"}) for _ in range(40)]
            return sum(decision.allowed for decision in await asyncio.gather(*tasks))

    assert asyncio.run(ask_at_once()) == 5


@pytest.mark.parametrize("failure", ["dead", "stopped", "shedding"])
def test_the_next_node_is_asked_if_the_first_fails(
    failure: str, make: Make, a_node: Node, dead: str, stopped_node: Node
) -> None:
    with stub(answering(503)) as shedding:
        first = {"dead": dead, "stopped": stopped_node.url, "shedding": shedding.url}[failure]
        allowed, denial = make(first, a_node.url, deadline=2.0, fail_mode="deny").use_up()
        assert (allowed, denial.source) == (5, "node")


def test_a_node_that_failed_is_asked_after_the_others(
    make: Make, a_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub(answering(500)) as failing:
        asker = make(failing.url, a_node.url)
        asker.slow()
        assert asker.core.order() == [a_node.url, failing.url]
        ended = time.monotonic() + PAUSE
        monkeypatch.setattr(time, "monotonic", lambda: ended)
        assert asker.core.order()[0] == failing.url


@pytest.mark.parametrize(("part", "paused"), [(1.0, True), (0.2, False)])
def test_a_node_that_fails_is_paused_unless_its_try_was_short(part: float, paused: bool, make: Make, dead: str) -> None:
    with stub(answering(500)) as failing, stub(answering(200)) as other:
        asker = make(failing.url, other.url)
        asker.send(asker.core.call(Check("api"), None), time.monotonic() + part * PATIENCE)
        assert (len(failing.seen), len(other.seen)) == (1, 1)
        assert asker.core.order()[0] == (other.url if paused else failing.url)


@pytest.mark.parametrize(
    ("options", "allowed", "status"),
    [({}, True, 200), ({"fail_mode": "allow"}, True, 200), ({"fail_mode": "deny"}, False, 503)],
)
def test_the_fail_mode_decides_if_no_node_answers(
    options: dict[str, Any], allowed: bool, status: int, make: Make, dead: str
) -> None:
    with stub(answering(502)) as failing:
        decision = make(dead, failing.url, dead, **options).slow()
        assert (decision.allowed, decision.status, decision.source) == (allowed, status, "fail_mode")
        assert decision.failure is not None and "status 502" in decision.failure
        assert len(failing.seen) == 1


def test_the_deadline_bounds_both_tries(make: Make) -> None:
    with stub(silent) as first, stub(silent) as second, stub(silent) as third:
        decision = make(first.url, second.url, third.url, deadline=2.0).slow()
        assert decision.source == "fail_mode"
        assert [len(server.seen) for server in (first, second, third)] == [1, 1, 0]


def test_an_answer_that_goes_on_ends_with_the_deadline(make: Make) -> None:
    with stub(dripping) as server:
        assert make(server.url, deadline=0.2).slow().source == "fail_mode"


def test_a_slow_node_within_the_deadline_decides(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node, delay=0.1)) as slow:
        decision = make(slow.url, fail_mode="deny").slow()
        assert (decision.allowed, decision.source) == (True, "node")


def test_a_connection_is_used_again(make: Make) -> None:
    ports = set()

    def note(_stub: Stub, _body: bytes, headers: Message) -> Answer:
        ports.add(headers["x-request-id"])
        return 200, {}, b'{"allowed":true}'

    with stub(note) as server:
        asker = make(server.url)
        for at in range(5):
            asker.slow(headers={"X-Request-Id": str(at)})
        pool = asker.client._pool
        assert len(ports) == 5
        assert len(pool.connections) == 1


@pytest.mark.parametrize("status", [400, 413])
def test_a_rejected_check_never_fails_open(status: int, make: Make, a_node: Node) -> None:
    asked = {400: ("", {}), 413: ("api", {letter: "x" * 4000 for letter in "abcdefghijklmnopqrstuvwxyz"})}[status]
    with stub(passing_on(a_node)) as first, stub(answering(200, '{"allowed":true}')) as other:
        asker = make(first.url, other.url, fail_mode="allow")
        with pytest.raises(RejectedError) as raised:
            asker.check(*asked)
        assert raised.value.status == status and raised.value.title
        assert status != 400 or raised.value.errors[0].pointer == "/domain"
        # A body that is too long is not sent.
        assert (len(first.seen), len(other.seen)) == (1 if status == 400 else 0, 0)


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (401, '{"title":"expected Authorization: Bearer"}', RejectedError),
        (404, "not found", RejectedError),
        (408, "{}", RejectedError),
        (200, "<html>", AnswerError),
        (401, '{"allowed":true}', RejectedError),
        (401, '{"allowed":false,"limits":[{}]}', RejectedError),
        (200, '{"allowed":false}', AnswerError),
        (200, '{"allowed":true,"limits":[{}]}', AnswerError),
        (200, '{"allowed":true,"retry_after_ms":"5"}', AnswerError),
        (200, '{"allowed":"yes"}', AnswerError),
        (200, "[" * 100_000, AnswerError),
        (200, " " * MAX_ANSWER + '{"allowed":true}', AnswerError),
        (307, "", AnswerError),
    ],
)
def test_an_answer_that_decides_nothing_never_fails_open(
    status: int, text: str, error: type[Exception], make: Make
) -> None:
    with stub(answering(status, text)) as server:
        asker = make(server.url, fail_mode="allow")
        with pytest.raises(error):
            asker.slow()


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize(
    "body", ["another", "contradicting", "incomplete", "of another type", "broken", "late", "long"]
)
def test_a_4xx_with_a_body_that_cannot_be_read_never_fails_open(status: int, body: str, make: Make) -> None:
    text = {
        "another": b"slow down",
        "contradicting": b'{"allowed":true}',
        "incomplete": b'{"allowed":false,"limits":[{}]}',
        "of another type": b'{"allowed":false,"retry_after_ms":"5"}',
        "long": b" " * MAX_ANSWER + b'{"allowed":true}',
    }.get(body, b"{")
    headers = {"late": {"content-length": "2000"}, "broken": {"transfer-encoding": "chunked", "content-length": "1"}}

    def answer(_stub: Stub, _body: bytes, _headers: Message) -> Answer:
        return status, {"Retry-After": "7", **headers.get(body, {})}, text

    with stub(answer) as server, stub(answering(200, '{"allowed":true}')) as other:
        asker = make(server.url, other.url, deadline=2.0, fail_mode="allow")
        if status == 429:
            decision = asker.slow()
            assert (decision.allowed, decision.status, decision.retry_after_ms) == (False, 429, 7000)
            assert decision.headers == {"Retry-After": "7"}
        else:
            with pytest.raises(RejectedError) as raised:
                asker.slow()
            assert raised.value.status == status
        assert other.seen == []


def test_an_invalid_key_is_a_denial(make: Make) -> None:
    text = '{"allowed":false,"reason":"revoked_key","retry_after_ms":null,"limits":[]}'
    with stub(answering(401, text, **{"www-authenticate": "ApiKey"})) as server:
        decision = make(server.url).slow()
        assert (decision.allowed, decision.status, decision.reason) == (False, 401, "revoked_key")
        assert decision.headers["WWW-Authenticate"] == "ApiKey"


def test_trace_context_request_id_and_token_arrive(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        headers = {"Traceparent": TRACE, "tracestate": "a=1", "X-Request-ID": "request-7", "cookie": "private"}
        decision = make(server.url, token="secret").slow(headers=headers)
        seen = server.seen[0]
        assert decision.request_id == "request-7"
        assert (seen["traceparent"], seen["tracestate"], seen["x-request-id"]) == (TRACE, "a=1", "request-7")
        assert (seen["authorization"], seen["cookie"]) == ("Bearer secret", None)


def test_the_context_of_opentelemetry_arrives(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        asker = make(server.url)
        with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
            asker.slow()
        assert format(span.get_span_context().trace_id, "032x") in server.seen[0]["traceparent"]


def test_a_node_with_tls_is_asked_if_its_certificate_is_trusted(make: Make, a_node: Node) -> None:
    authority = trustme.CA()
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(of_server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with stub(passing_on(a_node), of_server) as server:
        assert make(server.url, ssl_context=trusting).slow().source == "node"
        assert "certificate" in (make(server.url).slow().failure or "")


def test_a_node_that_wants_a_certificate_does_not_answer_without_one(make: Make) -> None:
    authority = trustme.CA()
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(of_server)
    authority.configure_trust(of_server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with stub(answering(200, '{"allowed":true}'), of_server) as server:
        decision = make(server.url, ssl_context=trusting, fail_mode="deny").slow()
        assert (decision.allowed, decision.source) == (False, "fail_mode")


def test_the_host_of_the_node_is_sent_as_in_its_url(make: Make) -> None:
    with stub(answering(200, '{"allowed":true}'), host="::1") as server:
        assert make(server.url).slow().source == "node"
        assert server.seen[0]["host"] == server.url.removeprefix("http://")


def test_a_header_that_cannot_be_sent_is_left_out(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        asker = make(server.url)
        values = ("a\r\nb: c", "é", "", "x" * (MAX_HEADER + 1))
        for value in values:
            assert asker.slow(headers={"x-request-id": value}).source == "node"
        assert [seen["x-request-id"] for seen in server.seen] == [None] * len(values)


def test_a_long_header_of_a_user_does_not_switch_off_the_limit(make: Make, a_node: Node) -> None:
    asker = make(a_node.url, denial_cache_size=0, fail_mode="allow")
    asker.use_up()
    long = "x" * (3 << 20)
    headers = {"traceparent": long, "tracestate": long, "x-request-id": long}
    assert [asker.slow(headers=headers).allowed for _ in range(5)] == [False] * 5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nodes:", {"nodes": []}),
        ("nodes:", {"nodes": "http://a:1"}),
        (r"nodes\[1\]", {"nodes": ["http://a:1", "b:2"]}),
        (r"nodes\[0\]", {"nodes": ["http://a:port"]}),
        (r"nodes\[0\]", {"nodes": ["http://user:password@a"]}),
        (r"nodes\[0\]", {"nodes": ["http://a b"]}),
        (r"nodes\[0\]", {"nodes": ["http://a?"]}),
        (r"nodes\[0\]", {"nodes": ["http://a#"]}),
        (r"nodes\[0\]", {"nodes": ["http://a..b"]}),
        (r"nodes\[0\]", {"nodes": ["http://a\nb"]}),
        (r"nodes\[0\]", {"nodes": [f"http://{'a' * 64}"]}),
        (r"nodes\[0\]", {"nodes": ["http://a/b c"]}),
        ("deadline", {"deadline": 0}),
        ("deadline", {"deadline": float("inf")}),
        ("fail_mode", {"fail_mode": "open"}),
        ("token", {"token": "secret\n"}),
        ("denial_cache_size", {"denial_cache_size": -1}),
        ("denial_cache_longest", {"denial_cache_longest": 0}),
        ("max_in_flight", {"max_in_flight": 0}),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_it(name: str, options: dict[str, Any]) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=name):
            kind(**{"nodes": ["http://a:1"], **options})


def test_every_kind_of_base_url_is_taken() -> None:
    for url in ("http://a_b.example.:8080/x", "https://10.0.0.1/", "http://[::1]:8080", "http://[fe80::1%25eth0]"):
        Client([url])
