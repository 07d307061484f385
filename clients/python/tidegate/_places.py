"""How many calls are in flight, and how many wait until one of these ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from ._decision import NoAnswer

# How many calls wait at most, for each call that may be in flight.
WAITERS_PER_PLACE = 100


class Places:
    """The places of threads. A place goes to the thread that has waited longest."""

    def __init__(self, in_flight: int, least: float) -> None:
        """A call that waited needs a time of at least `least`, in seconds."""
        self._in_flight = in_flight
        self._least = least
        self._lock = threading.Lock()
        self._free = in_flight
        # The event of each thread that waits, set when the thread has a place. The first has waited longest.
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def take(self, end: float) -> Iterator[None]:
        """Waits for a place until `end`, and gives it back. Raises `NoAnswer` if there is none in time."""
        self._enter(end)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, end: float) -> None:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            _check_waiting(len(self._waiting), self._in_flight)
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            if not turn.wait(max(0.0, end - time.monotonic())) or time.monotonic() + self._least > end:
                raise _too_late(self._in_flight)
        except BaseException:
            self._give_up(turn)
            raise

    def _give_up(self, turn: threading.Event) -> None:
        with self._lock:
            if not turn.is_set():
                self._waiting.remove(turn)
                return
        self._leave()

    def _leave(self) -> None:
        """Gives a place to the thread that has waited longest, or back."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class AsyncPlaces:
    """The places of tasks. A place goes to the task that has waited longest."""

    def __init__(self, in_flight: int, least: float) -> None:
        """A call that waited needs a time of at least `least`, in seconds."""
        self._in_flight = in_flight
        self._least = least
        self._free = asyncio.Semaphore(in_flight)
        self._waiting = 0

    async def enter(self, end: float) -> None:
        """Waits for a place until `end`. Raises `NoAnswer` if there is none in time."""
        if not self._free.locked():
            await self._free.acquire()
        else:
            await self._wait(end)

    def leave(self) -> None:
        """Gives a place to the task that has waited longest, or back."""
        self._free.release()

    async def _wait(self, end: float) -> None:
        _check_waiting(self._waiting, self._in_flight)
        self._waiting += 1
        try:
            async with asyncio.timeout(end - time.monotonic()):
                await self._free.acquire()
        except TimeoutError:
            raise _too_late(self._in_flight) from None
        finally:
            self._waiting -= 1
        if time.monotonic() + self._least > end:
            self._free.release()
            raise _too_late(self._in_flight)


def _check_waiting(count: int, in_flight: int) -> None:
    """Raises `NoAnswer` if no other call may wait."""
    if count >= WAITERS_PER_PLACE * in_flight:
        raise NoAnswer("too many calls wait for others to end")


def _too_late(in_flight: int) -> NoAnswer:
    return NoAnswer(f"{in_flight} other calls were in flight until the deadline was near")
