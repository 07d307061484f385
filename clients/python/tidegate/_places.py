"""How many calls are in flight, and how many wait until one of these ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from ._decision import NoAnswer

# How many calls wait at most, for each call that may be in flight.
WAITERS_PER_PLACE = 100


class _Waiting:
    """Counts the calls that wait."""

    def __init__(self, in_flight: int) -> None:
        self._in_flight = in_flight
        self._lock = threading.Lock()
        self._count = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            if self._count >= WAITERS_PER_PLACE * self._in_flight:
                raise NoAnswer("too many calls wait for others to end")
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    def too_late(self) -> NoAnswer:
        return NoAnswer(f"{self._in_flight} other calls were in flight until the deadline")


class Places:
    """The places of threads."""

    def __init__(self, in_flight: int) -> None:
        self._free = threading.Semaphore(in_flight)
        self._waiting = _Waiting(in_flight)

    @contextmanager
    def take(self, end: float) -> Iterator[None]:
        """Waits for a place until `end`, and gives it back. Raises `NoAnswer` if there is none."""
        if not self._free.acquire(blocking=False):
            with self._waiting.one_more():
                if not self._free.acquire(timeout=max(0.0, end - time.monotonic())):
                    raise self._waiting.too_late()
        try:
            yield
        finally:
            self._free.release()


class AsyncPlaces:
    """The places of tasks."""

    def __init__(self, in_flight: int) -> None:
        self._free = asyncio.Semaphore(in_flight)
        self._waiting = _Waiting(in_flight)

    @asynccontextmanager
    async def take(self, end: float) -> AsyncIterator[None]:
        """Does what `Places.take` does."""
        if not self._free.locked():
            await self._free.acquire()
        else:
            with self._waiting.one_more():
                try:
                    async with asyncio.timeout(end - time.monotonic()):
                        await self._free.acquire()
                except TimeoutError:
                    raise self._waiting.too_late() from None
        try:
            yield
        finally:
            self._free.release()
