"""When the try of this thread or task ends. httpcore bounds each operation; this bounds all of them together."""

from __future__ import annotations

import time
from contextvars import ContextVar

import httpcore

# A time of `time.monotonic()`.
END: ContextVar[float] = ContextVar("END")


def time_left(error: type[httpcore.TimeoutException]) -> float:
    """Returns the time that is left, in seconds, more than 0. Raises `error` if there is none."""
    left = END.get() - time.monotonic()
    if left <= 0:
        raise error("the deadline has passed")
    return left
