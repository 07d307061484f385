"""The client for threads."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpcore

from ._config import Config, FailMode
from ._core import MAX_CONNECTIONS, Answer, Call, Core
from ._decision import Decision, FailedNode


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
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Opens no connection. Raises a `ValueError` that names the argument that is wrong.

        - `nodes`: base URLs such as `http://10.0.0.1:8080`, in the order of preference.
        - `deadline`: bounds a call to `check` with both of its tries, in seconds. The look-up of a host name is not
          bounded: name nodes by address, or run a resolver on this machine.
        - `fail_mode`: the answer to a check that no node answered.
        - `token`: sent as `Authorization: Bearer`.
        - `denial_cache_size`: how many denials are remembered; 0 turns the cache off.
        - `denial_cache_longest`: the longest time for which a denial is remembered, in seconds, so that a raised limit
          is noticed.
        - `ssl_context`: says whom to trust, and has the client's certificate, for nodes with `https`. By default the
          certificates of `certifi` are trusted.
        """
        self._core = Core(Config(nodes, deadline, fail_mode, token, denial_cache_size, denial_cache_longest))
        self._end = _End()
        self._pool = httpcore.ConnectionPool(
            ssl_context, max_connections=MAX_CONNECTIONS, keepalive_expiry=60.0, network_backend=_Backend(self._end)
        )

    def check(
        self,
        domain: str,
        attributes: Mapping[str, str] | None = None,
        *,
        hits: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> Decision:
        """Asks whether a request may pass, and returns within the deadline.

        `hits=0` asks whether one hit would pass, and charges nothing. `headers` are those of the request on whose
        behalf is asked: its `traceparent`, `tracestate` and `x-request-id` are sent to the node. Without a
        `traceparent`, the context of OpenTelemetry is sent if it is installed.

        If a node cannot be reached, does not answer in its part of the deadline, or answers with status 5xx, the next
        node is asked, once. A check that a node charged before it failed is then charged twice. If no node answers, the
        fail mode decides, and the decision has `source="fail_mode"`.

        Raises `RejectedError` if the node does not take the check, and `AnswerError` if the answer is not that of a
        node.
        """
        core = self._core
        call = core.call(domain, attributes, hits, headers)
        if (denial := core.remembered(call)) is not None:
            return denial
        end = time.monotonic() + core.config.deadline
        failures: list[FailedNode] = []
        for attempt, url in enumerate(core.order()):
            try:
                return core.decided(call, url, self._send(url, call, core.end_of(attempt, end)))
            except FailedNode as failure:
                core.failed(url)
                failures.append(failure)
            if time.monotonic() >= end:
                break
        return core.fail_mode(failures)

    def _send(self, url: str, call: Call, end: float) -> Answer:
        """Sends a check to one node and reads the answer."""
        self._end.at = end
        timeouts = {"timeout": {"pool": self._end.left()}}
        read = Answer()
        try:
            with self._pool.stream("POST", url, headers=call.headers, content=call.body, extensions=timeouts) as answer:
                read.status, read.headers = answer.status, answer.headers
                for part in answer.iter_stream():
                    if not read.add(part):
                        break
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError) as error:
            if not read.refuses():
                raise FailedNode(f"{url}: {error!r}") from error
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


class _End(threading.local):
    """When the try of this thread ends. Sockets know a timeout for each operation; this bounds all of them."""

    at: float = 0.0

    def left(self) -> float:
        # A timeout of 0 would make a socket non-blocking.
        return max(1e-3, self.at - time.monotonic())

    def check(self, error: type[httpcore.TimeoutException]) -> float:
        """Returns the time that is left. Raises `error` if there is none."""
        if time.monotonic() >= self.at:
            raise error("the deadline has passed")
        return self.left()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, end: _End) -> None:
        self._end = end
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
            left = self._end.check(httpcore.ConnectTimeout)
            try:
                stream = self._inner.connect_tcp(str(address[0]), port, left, local_address, socket_options)
                return _Stream(stream, self._end)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, end: _End) -> None:
        self._inner = inner
        self._end = end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._end.check(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._end.check(httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._end.check(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
