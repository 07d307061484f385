"""Denials are remembered until they end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import Make
from servers import Node, passing_on, stub, wait_until

from tidegate import Decision, Limit
from tidegate._denials import MAX_KEY, MAX_LIMITS, DenialCache


def test_a_node_is_not_asked_again_until_the_denial_ends(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        asker = make(server.url)
        _, first = asker.use_up()
        asked = len(server.seen)
        for _ in range(20):
            again = asker.slow()
            assert (again.allowed, again.status, again.source) == (False, 429, "denial_cache")
            assert (again.retry_after_ms or 0) <= (first.retry_after_ms or 0)
        assert len(server.seen) == asked
        asker.slow("u2")
        assert len(server.seen) == asked + 1


def test_the_order_of_the_attributes_does_not_matter(make: Make, a_node: Node) -> None:
    asker = make(a_node.url)
    asker.use_up()
    assert asker.check("api", {"user": "u1", "kind": "slow"}).source == "denial_cache"


def test_the_node_is_asked_again_when_the_denial_has_ended(make: Make, a_node: Node) -> None:
    asker = make(a_node.url)
    asker.use_up(kind="fast")
    wait_until(lambda: asker.check("api", {"kind": "fast", "user": "u1"}).allowed)


def test_a_denial_covers_only_checks_of_at_least_its_hits(make: Make, a_node: Node) -> None:
    asker = make(a_node.url)
    asker.slow(hits=3)
    assert not asker.slow(hits=3).allowed
    assert asker.slow(hits=4).source == "denial_cache"
    peek = asker.slow(hits=0)
    assert (peek.allowed, peek.source, peek.limits[0].remaining) == (True, "node", 2)
    fits = asker.slow(hits=2)
    assert (fits.allowed, fits.source) == (True, "node")


def test_denials_that_no_wait_ends_are_not_remembered(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        asker = make(server.url)
        assert [asker.slow(hits=6).allowed for _ in range(2)] == [False, False]
        assert len(server.seen) == 2


def test_the_cache_is_bounded(make: Make, a_node: Node) -> None:
    asker = make(a_node.url, denial_cache_size=2)
    for user in ("u1", "u2", "u3"):
        asker.use_up(user)
    assert len(asker.core.denials) == 2
    assert (asker.slow("u3").source, asker.slow("u1").source) == ("denial_cache", "node")


def test_the_cache_can_be_turned_off(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        asker = make(server.url, denial_cache_size=0)
        asker.use_up()
        asked = len(server.seen)
        assert [asker.slow().source for _ in range(3)] == ["node"] * 3
        assert len(server.seen) == asked + 3


def denial(retry_after_ms: int | None = 90_500, *, allowed: bool = False) -> Decision:
    limit = Limit("a", 0, "fixed_window", 5, 0, 100_000, 100_000, True, False)
    headers = {"Retry-After": "91", "RateLimit": '"a";r=0;t=91, "b";r=7;t=20'}
    return Decision(allowed, 429, "node", retry_after_ms=retry_after_ms, limits=(limit,), headers=headers)


def test_the_times_of_a_remembered_denial_go_on() -> None:
    cache = DenialCache(10, 60.0)
    cache.add("key", 1, denial(), 1000.0)
    later = cache.find("key", 1, 1031.0)
    assert later is not None
    assert (later.retry_after_ms, later.limits[0].reset_ms) == (59_500, 69_000)
    assert later.headers == {"Retry-After": "60", "RateLimit": '"a";r=0;t=60, "b";r=7;t=0'}
    assert cache.find("key", 1, 1060.0) is None, "expected that a denial is remembered for a minute at most"
    assert len(cache) == 0


def test_a_caller_that_changes_its_denial_changes_no_other() -> None:
    cache, given = DenialCache(10, 60.0), denial()
    cache.add("key", 1, given, 1000.0)
    assert isinstance(given.headers, dict)
    given.headers.clear()
    later = cache.find("key", 1, 1000.0)
    assert later is not None and set(later.headers) == {"Retry-After", "RateLimit"}


@pytest.mark.parametrize(
    ("key", "hits", "decision"),
    [
        ("key", 1, denial(allowed=True)),
        ("key", 1, denial(None)),
        ("key", 0, denial()),
        ("x" * (MAX_KEY + 1), 1, denial()),
        ("key", 1, replace(denial(), limits=denial().limits * (MAX_LIMITS + 1))),
    ],
)
def test_only_short_denials_that_end_are_remembered(key: str, hits: int, decision: Decision) -> None:
    cache = DenialCache(10, 60.0)
    cache.add(key, hits, decision, 1000.0)
    assert len(cache) == 0
