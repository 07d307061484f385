"""The calls in flight are bounded, and so are those that wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Make
from servers import PATIENCE, Node, overloaded, passing_on, silent, stub, wait_until

from tidegate._decision import NoAnswer
from tidegate._places import WAITERS_PER_PLACE, AsyncPlaces, Places


@pytest.mark.parametrize(("size", "count"), [(10_000, 1000), (0, 200)])
def test_a_burst_of_checks_does_not_overload_the_node(size: int, count: int, make: Make, a_node: Node) -> None:
    with stub(overloaded(a_node, 16)) as server:
        asker = make(server.url, fail_mode="allow", max_in_flight=16, denial_cache_size=size)
        assert Counter(decision.allowed for decision in asker.at_once(count, "many")) == {True: 10, False: count - 10}


def test_a_check_that_waited_is_denied_by_the_answer_to_another(make: Make, a_node: Node) -> None:
    with stub(passing_on(a_node)) as server:
        make(server.url, max_in_flight=1).at_once(100)
        assert len(server.seen) == 6


def test_the_wait_for_a_place_ends_with_the_deadline(make: Make) -> None:
    with stub(silent) as server:
        decisions = make(server.url, max_in_flight=1, deadline=0.5, fail_mode="deny").at_once(20)
        assert {(decision.status, decision.source) for decision in decisions} == {(503, "fail_mode")}


def test_few_threads_wait() -> None:
    places = Places(1)

    def take(end: float) -> str:
        try:
            with places.take(end):
                return "place"
        except NoAnswer as why:
            return str(why)

    with ThreadPoolExecutor(WAITERS_PER_PLACE) as threads:
        with places.take(0.0):
            waits = threads.map(take, [time.monotonic() + PATIENCE] * WAITERS_PER_PLACE)
            wait_until(lambda: places._waiting._count == WAITERS_PER_PLACE)
            assert take(0.0) == "too many calls wait for others to end"
        assert set(waits) == {"place"}
    with places.take(0.0):
        assert take(0.0) == "1 other calls were in flight until the deadline"
    assert take(0.0) == "place"


def test_few_tasks_wait() -> None:
    async def take_many() -> list[str]:
        places = AsyncPlaces(1)

        async def take(end: float) -> str:
            try:
                async with places.take(end):
                    return "place"
            except NoAnswer as why:
                return str(why)

        async with places.take(0.0):
            waits = [take(time.monotonic() + 0.5) for _ in range(WAITERS_PER_PLACE + 2)]
            ended = await asyncio.gather(*waits)
        return [*ended, await take(0.0)]

    assert Counter(asyncio.run(take_many())) == {
        "1 other calls were in flight until the deadline": WAITERS_PER_PLACE,
        "too many calls wait for others to end": 2,
        "place": 1,
    }


def test_a_task_that_is_cancelled_gives_its_place_back(a_node: Node) -> None:
    async def cancel_waits() -> str:
        places = AsyncPlaces(1)

        async def hold() -> None:
            async with places.take(time.monotonic() + PATIENCE):
                await asyncio.sleep(PATIENCE)

        tasks = [asyncio.create_task(hold()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with places.take(0.0):
            return "place"

    assert asyncio.run(cancel_waits()) == "place"
