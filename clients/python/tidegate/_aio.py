"""The client for asyncio."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpcore

from ._aio_pool import Pool
from ._check import Check
from ._config import Config, FailMode
from ._core import Call, Core
from ._decision import Answer, Decision, NoAnswer, RejectedError
from ._end import END
from ._places import AsyncPlaces

T = TypeVar("T")


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
        max_in_flight: int = 64,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """The arguments are those of `Client`. The deadline bounds the look-up of a host name, too."""
        self._core = Core(
            Config(nodes, deadline, fail_mode, token, denial_cache_size, denial_cache_longest, max_in_flight)
        )
        self._places = AsyncPlaces(max_in_flight, self._core.config.least_time)
        self._pool = Pool(ssl_context)
        # The calls in flight, also those whose callers are cancelled.
        self._calls: set[asyncio.Task[Any]] = set()

    async def check(
        self,
        domain: str,
        attributes: Mapping[str, str] | None = None,
        *,
        hits: int = 1,
        descriptors: Sequence[Mapping[str, str]] = (),
        overdraft: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Decision:
        """Does what `Client.check` does. If it is cancelled, its call ends later, within the deadline."""
        core, check = self._core, Check(domain, attributes or {}, hits, descriptors, overdraft)
        if (denial := core.remembered(check)) is not None:
            return denial
        call = core.call(check, headers)
        end = time.monotonic() + core.config.deadline

        async def ask() -> Decision:
            # While the check waited, another one may have been denied.
            if (denial := core.remembered(check)) is not None:
                return denial
            return core.decided(check, await self._send(call, end))

        try:
            return await self._in_place(ask, end)
        except NoAnswer as why:
            return core.fail_mode(why)

    async def check_all(
        self, checks: Sequence[Check], *, headers: Mapping[str, str] | None = None
    ) -> list[Decision | RejectedError]:
        """Does what `Client.check_all` does."""
        if not checks:
            return []
        core = self._core
        call, count = core.batch(checks, headers), len(checks)
        end = time.monotonic() + core.config.deadline

        async def ask() -> list[Decision | RejectedError]:
            return core.all_decided(await self._send(call, end), count)

        try:
            return await self._in_place(ask, end)
        except NoAnswer as why:
            return [core.fail_mode(why) for _ in range(count)]

    async def _in_place(self, ask: Callable[[], Coroutine[Any, Any, T]], end: float) -> T:
        """Runs a call when it has a place. The call goes on if its caller is cancelled: httpcore may never close the
        connection of a call that is."""
        await self._places.enter(end)
        task = asyncio.create_task(ask())
        self._calls.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task})
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        self._places.leave()
        if not task.cancelled():
            # asyncio logs an error that nobody reads, such as that of a call whose caller is cancelled.
            task.exception()

    async def _send(self, call: Call, end: float) -> Answer:
        """Sends a call to one node after another until one answers. Raises `NoAnswer` if none does."""
        failures: list[str] = []
        for attempt, url in enumerate(self._core.order()):
            within = self._core.time_of(attempt, end)
            try:
                return await self._ask(url + call.path, call, within)
            except NoAnswer as failure:
                self._core.failed(url, within)
                failures.append(str(failure))
            if time.monotonic() >= end:
                break
        raise NoAnswer("no node answered: " + "; ".join(failures))

    async def _ask(self, url: str, call: Call, within: float) -> Answer:
        """Sends a call to one node, and reads the answer within some seconds."""
        END.set(time.monotonic() + within)
        read = Answer(url)
        try:
            async with self._pool.post(url, call.headers_for(url), call.body) as answer:
                read.status, read.headers = answer.status, answer.headers
                async for part in answer.aiter_stream():
                    if not read.add(part, call.max_answer):
                        break
        except (
            ssl.SSLError,  # A node refuses the client's certificate when its answer is read.
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.RemoteProtocolError,
        ) as error:
            if not read.refuses():
                raise NoAnswer(f"{url}: {error!r}") from error
        if read.status >= 500:
            raise NoAnswer(f"{url}: status {read.status}")
        return read

    async def aclose(self) -> None:
        """Waits for the calls in flight, within the deadline, and closes all connections."""
        # A call that waited for a place may begin when another one ends.
        while self._calls:
            await asyncio.wait(self._calls)
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
