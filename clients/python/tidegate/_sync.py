"""The client for threads."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpcore

from ._check import Check
from ._config import Config, FailMode
from ._core import Call, Core
from ._decision import Answer, Decision, NoAnswer, RejectedError
from ._end import END, time_left
from ._places import Places


class Client:
    """Asks nodes. It is safe for threads: make one and share it. Make it after a fork, not before."""

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        deadline: float = 0.25,
        fail_mode: FailMode = "allow",
        token: str | None = None,
        denial_cache_size: int = 10_000,
        denial_cache_longest: float = 60.0,
        max_in_flight: int = 64,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Opens no connection. Raises a `ValueError` that names the argument that is wrong.

        - `nodes`: base URLs such as `http://10.0.0.1:8080`, in the order of preference.
        - `deadline`: bounds a call to `check` with both of its tries, in seconds, 3,600 at most. The look-up of a host
          name is not bounded: name nodes by address, or run a resolver on this machine.
        - `fail_mode`: the answer to a check that no node answered.
        - `token`: sent as `Authorization: Bearer`.
        - `denial_cache_size`: how many denials are remembered; 0 turns the cache off.
        - `denial_cache_longest`: the longest time for which a denial is remembered, in seconds, so that a raised limit
          is noticed.
        - `max_in_flight`: how many calls are in flight at most. Others wait for one of these to end, in the order in
          which they came, and their wait counts against the deadline. A call that waited is not sent if less than a
          quarter of the deadline is left: the fail mode decides. At most 100 times as many wait; the fail mode decides
          about every other check at once.
        - `ssl_context`: says whom to trust, and has the client's certificate, for nodes with `https`. By default the
          certificates of `certifi` are trusted.
        """
        self._core = Core(
            Config(nodes, deadline, fail_mode, token, denial_cache_size, denial_cache_longest, max_in_flight)
        )
        self._places = Places(max_in_flight, self._core.config.least_time)
        self._pool = httpcore.ConnectionPool(
            ssl_context, max_connections=None, keepalive_expiry=60.0, network_backend=_Backend()
        )

    def check(
        self,
        domain: str,
        attributes: Mapping[str, str] | None = None,
        *,
        hits: int = 1,
        descriptors: Sequence[Mapping[str, str]] = (),
        overdraft: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Decision:
        """Asks whether a request may pass, and returns within the deadline.

        `hits`, `descriptors` and `overdraft` are those of a `Check`. `headers` are those of the request on whose
        behalf is asked: its `traceparent`, `tracestate` and `x-request-id` are sent to the node. Without a
        `traceparent`, the context of OpenTelemetry is sent if it is installed.

        If a node cannot be reached, does not answer in its part of the deadline, or answers with status 5xx, the next
        node is asked, once. A check that a node charged before it failed is then charged twice. If no node answers, the
        fail mode decides, and the decision has `source="fail_mode"`.

        Raises `RejectedError` if the node does not take the check, and `AnswerError` if the answer is not that of a
        node.
        """
        core, check = self._core, Check(domain, attributes or {}, hits, descriptors, overdraft)
        if (denial := core.remembered(check)) is not None:
            return denial
        call = core.call(check, headers)
        end = time.monotonic() + core.config.deadline
        try:
            with self._places.take(end):
                # While the check waited, another one may have been denied.
                if (denial := core.remembered(check)) is not None:
                    return denial
                return core.decided(check, self._send(call, end))
        except NoAnswer as why:
            return core.fail_mode(why)

    def check_all(
        self, checks: Sequence[Check], *, headers: Mapping[str, str] | None = None
    ) -> list[Decision | RejectedError]:
        """Asks about up to 1,000 checks in one call. Each is decided for itself, and the results have their order.

        A check that the node does not take has a `RejectedError` as its result. This does what `check` does, except
        that the decisions have no headers, and denials are neither remembered nor found in the denial cache.

        Raises `RejectedError` if the node does not take the whole batch, and `AnswerError` if the answer is not that of
        a node.
        """
        if not checks:
            return []
        core = self._core
        call, count = core.batch(checks, headers), len(checks)
        end = time.monotonic() + core.config.deadline
        try:
            with self._places.take(end):
                return core.all_decided(self._send(call, end), count)
        except NoAnswer as why:
            return [core.fail_mode(why) for _ in range(count)]

    def _send(self, call: Call, end: float) -> Answer:
        """Sends a call to one node after another until one answers. Raises `NoAnswer` if none does."""
        failures: list[str] = []
        for attempt, url in enumerate(self._core.order()):
            within = self._core.time_of(attempt, end)
            try:
                return self._ask(url + call.path, call, within)
            except NoAnswer as failure:
                self._core.failed(url, within)
                failures.append(str(failure))
            if time.monotonic() >= end:
                break
        raise NoAnswer("no node answered: " + "; ".join(failures))

    def _ask(self, url: str, call: Call, within: float) -> Answer:
        """Sends a call to one node, and reads the answer within some seconds."""
        END.set(time.monotonic() + within)
        read = Answer(url)
        try:
            with self._pool.stream("POST", url, headers=call.headers_for(url), content=call.body) as answer:
                read.status, read.headers = answer.status, answer.headers
                for part in answer.iter_stream():
                    if not read.add(part, call.max_answer):
                        break
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError) as error:
            if not read.refuses():
                raise NoAnswer(f"{url}: {error!r}") from error
        if read.status >= 500:
            raise NoAnswer(f"{url}: status {read.status}")
        return read

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Tries each address of the host in the time that is left."""
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for *_, address in addresses:
            left = time_left(httpcore.ConnectTimeout)
            try:
                stream = self._inner.connect_tcp(str(address[0]), port, left, local_address, socket_options)
                return _Stream(stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, time_left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, time_left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = time_left(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
