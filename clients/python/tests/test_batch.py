"""Batches, several descriptors, and overdraft."""

from __future__ import annotations

from email.message import Message

import pytest
from conftest import Make
from servers import Answer, Node, Stub, answering, passing_on, stub

from tidegate import AnswerError, Check, Decision, RejectedError


def slow(user: str, hits: int = 1) -> Check:
    return Check("api", {"kind": "slow", "user": user}, hits)


def test_each_check_of_a_batch_is_decided_for_itself(make: Make, a_node: Node) -> None:
    asker = make(a_node.url)
    first, second, third, fourth = asker.check_all(slow("u1", 5), slow("u1"), Check(""), slow("u2"))
    assert isinstance(first, Decision) and isinstance(second, Decision) and isinstance(fourth, Decision)
    assert (first.allowed, first.status, first.source) == (True, 200, "node")
    assert (second.allowed, second.status, bool(second.retry_after_ms)) == (False, 429, True)
    assert isinstance(third, RejectedError)
    assert (third.status, third.errors[0].pointer) == (400, "/domain")
    assert fourth.limits[0].remaining == 4
    assert asker.check_all() == []


def test_half_a_character_in_one_check_does_not_reject_the_others(make: Make, a_node: Node) -> None:
    asker = make(a_node.url, fail_mode="allow")
    broken = b"caf\xe9".decode("utf-8", "surrogateescape")
    several = Check("api", descriptors=[{"kind": "slow", "user": broken}])
    good, first, second = asker.check_all(slow("u1"), slow(broken), several)
    assert isinstance(good, Decision) and good.allowed
    assert isinstance(first, RejectedError) and first.errors[0].pointer == "/attributes/user"
    assert isinstance(second, RejectedError) and second.errors[0].pointer == "/descriptors/0/user"
    with pytest.raises(RejectedError):
        asker.check("api", {"kind": "slow", "user": broken})


@pytest.mark.parametrize("status", [200, 503])
def test_a_list_of_checks_may_change_after_the_call(status: int, make: Make) -> None:
    checks = [slow("u1"), slow("u2")]

    def answer(_stub: Stub, _body: bytes, _headers: Message) -> Answer:
        checks.clear()
        return status, {}, b'{"results":[{"allowed":true},{"allowed":true}]}'

    with stub(answer) as server:
        assert len(make(server.url).check_list(checks)) == 2


def test_the_fail_mode_decides_about_a_batch_that_no_node_answers(make: Make, dead: str) -> None:
    for decision in make(dead, fail_mode="deny").check_all(slow("u1"), slow("u2")):
        assert isinstance(decision, Decision)
        assert (decision.source, decision.status) == ("fail_mode", 503)
    text = '{"results":[{"error":{"status":503}},{"allowed":false,"reason":"unknown_key"}]}'
    with stub(answering(200, text)) as server:
        shed, unknown = make(server.url).check_all(slow("u1"), slow("u2"))
        assert isinstance(shed, Decision) and isinstance(unknown, Decision)
        assert (shed.source, "status 503" in (shed.failure or "")) == ("fail_mode", True)
        assert (unknown.status, unknown.source) == (401, "node")


@pytest.mark.parametrize(("status", "checks"), [(400, [Check("")] * 1001), (413, [slow("x" * 4000)] * 300)])
def test_a_rejected_batch_never_fails_open(status: int, checks: list[Check], make: Make, a_node: Node) -> None:
    asker = make(a_node.url, fail_mode="allow")
    with pytest.raises(RejectedError) as raised:
        asker.check_all(*checks)
    assert raised.value.status == status


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"results":[]}',
        '{"results":[{}]}',
        '{"results":[1]}',
        '{"results":[null]}',
        '{"results":[{"error":{}}]}',
        '{"results":[{"error":1}]}',
    ],
)
def test_an_answer_that_decides_no_batch_never_fails_open(text: str, make: Make) -> None:
    with stub(answering(200, text)) as server:
        asker = make(server.url, fail_mode="allow")
        with pytest.raises(AnswerError):
            asker.check_all(slow("u1"))


def test_all_descriptors_of_a_check_must_fit(make: Make, a_node: Node) -> None:
    asker = make(a_node.url)
    both = [slow("u1").attributes, slow("u2").attributes]
    assert [limit.descriptor for limit in asker.check("api", descriptors=both).limits] == [0, 1]
    allowed, _ = asker.use_up("u2")
    assert allowed == 4
    denial = asker.check("api", descriptors=both)
    assert [denial.allowed, *(limit.refused for limit in denial.limits)] == [False, False, True]
    assert asker.check("api", descriptors=both).source == "denial_cache"
    assert asker.check("api", descriptors=both[:1]).limits[0].remaining == 3
    with pytest.raises(RejectedError, match="/descriptors"):
        asker.check("api", {"user": "u3"}, descriptors=both)


def test_overdraft_charges_in_any_case(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        asker = make(server.url)
        decisions = [asker.slow(hits=4, overdraft=True) for _ in range(2)]
        decisions.append(asker.slow())
        decisions.append(asker.slow(hits=4, overdraft=True))
        assert [decision.allowed for decision in decisions] == [True, False, False, False]
        assert {decision.source for decision in decisions} == {"node"}
        assert len(server.seen) == 4
