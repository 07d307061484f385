"""Denials are remembered until they end, so that nobody asks a node what it has answered already."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from threading import Lock

from ._decision import Decision

# The length of the longest key that is remembered, and the most limits of its denial. They bound the memory of the
# cache.
MAX_KEY = 2048
MAX_LIMITS = 20
# The time of a limit in the header RateLimit.
_SECONDS = re.compile(r";t=(\d+)")


@dataclass(frozen=True)
class _Denial:
    """Covers every check of its key that asks for at least as many hits."""

    hits: int
    decision: Decision
    at: float
    end: float


class DenialCache:
    """A bounded map. Of a full cache, the oldest denial leaves. Times are in seconds of a monotonic clock."""

    def __init__(self, size: int, longest: float) -> None:
        self._size = size
        self._longest = longest
        self._lock = Lock()
        self._by_key: dict[str, _Denial] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, key: str, hits: int, decision: Decision, now: float) -> None:
        """Remembers a decision if it denies and says when asking again helps."""
        wait = decision.retry_after_ms
        if self._size == 0 or decision.allowed or not wait or hits == 0:
            return
        if len(key) > MAX_KEY or len(decision.limits) > MAX_LIMITS:
            return
        # The caller may change the headers of its decision.
        decision = replace(decision, headers=dict(decision.headers))
        with self._lock:
            self._by_key.pop(key, None)
            if len(self._by_key) >= self._size:
                del self._by_key[next(iter(self._by_key))]
            self._by_key[key] = _Denial(hits, decision, now, now + min(wait / 1000, self._longest))

    def find(self, key: str, hits: int, now: float) -> Decision | None:
        """Returns the denial that covers a check, with its times as they are now."""
        with self._lock:
            found = self._by_key.get(key)
            if found is None:
                return None
            if now >= found.end:
                del self._by_key[key]
                return None
        return _after(found.decision, now - found.at) if hits >= found.hits else None


def _after(denial: Decision, passed: float) -> Decision:
    """Returns a denial as it reads when some seconds have passed."""
    passed_ms = int(passed * 1000)
    before = denial.retry_after_ms or 0
    wait = max(1, before - passed_ms)
    seconds = math.ceil(wait / 1000)
    gone = math.ceil(before / 1000) - seconds
    headers = {**denial.headers, "Retry-After": str(seconds)}
    if "RateLimit" in headers:
        headers["RateLimit"] = _SECONDS.sub(lambda t: f";t={max(0, int(t[1]) - gone)}", headers["RateLimit"])
    limits = tuple(replace(limit, reset_ms=max(0, limit.reset_ms - passed_ms)) for limit in denial.limits)
    return replace(denial, source="denial_cache", retry_after_ms=wait, limits=limits, headers=headers)
