"""The client for asyncio."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import httpcore

from ._config import Config, FailMode
from ._core import MAX_CONNECTIONS, Answer, Call, Core
from ._decision import Decision, FailedNode


class AsyncClient:
    """Asks nodes. Tasks of one event loop share it."""

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
        """The arguments are those of `Client`. The deadline bounds the look-up of a host name, too."""
        self._core = Core(Config(nodes, deadline, fail_mode, token, denial_cache_size, denial_cache_longest))
        self._pool = httpcore.AsyncConnectionPool(ssl_context, max_connections=MAX_CONNECTIONS, keepalive_expiry=60.0)

    async def check(
        self,
        domain: str,
        attributes: Mapping[str, str] | None = None,
        *,
        hits: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> Decision:
        """Does what `Client.check` does."""
        core = self._core
        call = core.call(domain, attributes, hits, headers)
        if (denial := core.remembered(call)) is not None:
            return denial
        end = time.monotonic() + core.config.deadline
        failures: list[FailedNode] = []
        for attempt, url in enumerate(core.order()):
            try:
                return core.decided(call, url, await self._send(url, call, core.end_of(attempt, end)))
            except FailedNode as failure:
                core.failed(url)
                failures.append(failure)
            if time.monotonic() >= end:
                break
        return core.fail_mode(failures)

    async def _send(self, url: str, call: Call, end: float) -> Answer:
        """Sends a check to one node and reads the answer."""
        read = Answer()
        try:
            async with (
                asyncio.timeout(end - time.monotonic()),
                self._pool.stream("POST", url, headers=call.headers, content=call.body) as answer,
            ):
                read.status, read.headers = answer.status, answer.headers
                async for part in answer.aiter_stream():
                    if not read.add(part):
                        break
        except (TimeoutError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError) as error:
            if not read.refuses():
                raise FailedNode(f"{url}: {error!r}") from error
        return read

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
