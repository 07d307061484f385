"""The calls in flight are bounded, and so are those that wait."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import Any

import pytest
from conftest import Make
from servers import PATIENCE, Answer, Node, Stub, overloaded, passing_on, silent, stub, wait_until

from tidegate import AsyncClient, Client
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


def waiting(places: Places | AsyncPlaces) -> int:
    return len(places._waiting) if isinstance(places, Places) else places._waiting


def test_a_check_that_gets_its_place_too_late_is_not_sent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic

    def answer(stub: Stub, _body: bytes, _headers: Message) -> Answer:
        if len(stub.seen) == 1:
            wait_until(lambda: waiting(asker.client._places) == 1)
            monkeypatch.setattr(time, "monotonic", lambda: now() + 0.8 * PATIENCE)
        return 200, {}, b'{"allowed":true}'

    with stub(answer) as server:
        asker = make(server.url, max_in_flight=1, fail_mode="deny")
        assert Counter(decision.source for decision in asker.at_once(2)) == {"node": 1, "fail_mode": 1}
        assert len(server.seen) == 1
        assert asker.slow().source == "node"


def test_every_thread_that_asks_in_a_loop_gets_answers() -> None:
    answers = Counter[int]()
    sources = Counter[str]()

    def answer(_stub: Stub, _body: bytes, _headers: Message) -> Answer:
        time.sleep(0.005)
        return 200, {}, b'{"allowed":true}'

    def ask_in_a_loop(thread: int) -> None:
        while min(answers[at] for at in range(8)) < 10 and "fail_mode" not in sources:
            sources[client.check("api").source] += 1
            answers[thread] += 1

    with stub(answer) as server, Client([server.url], deadline=2.0, max_in_flight=2) as client:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask_in_a_loop, range(8)))
    assert set(sources) == {"node"}


def test_threads_get_places_in_the_order_in_which_they_came() -> None:
    places, end = Places(1, 0.0), time.monotonic() + PATIENCE
    order: list[int] = []

    def take(at: int) -> None:
        with places.take(end):
            order.append(at)

    with ThreadPoolExecutor(3) as threads:
        with places.take(end):
            waits = []
            for at in range(3):
                waits.append(threads.submit(take, at))
                wait_until(lambda: waiting(places) == len(waits))
        take(3)
        for wait in waits:
            wait.result()
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize("has_its_place", [False, True])
def test_a_thread_that_is_interrupted_gives_its_place_back(
    has_its_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(1, 0.0)
    held = places.take(0.0)
    held.__enter__()

    def interrupted(_event: threading.Event, _timeout: float) -> bool:
        if has_its_place:
            held.__exit__(None, None, None)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Event, "wait", interrupted)
        with places.take(time.monotonic() + PATIENCE):
            pass
    assert waiting(places) == 0
    if not has_its_place:
        held.__exit__(None, None, None)
    with places.take(0.0):
        pass


def test_few_threads_wait() -> None:
    places = Places(1, 0.0)

    def take(end: float) -> str:
        try:
            with places.take(end):
                return "place"
        except NoAnswer as why:
            return str(why)

    with ThreadPoolExecutor(WAITERS_PER_PLACE) as threads:
        with places.take(0.0):
            waits = threads.map(take, [time.monotonic() + PATIENCE] * WAITERS_PER_PLACE)
            wait_until(lambda: waiting(places) == WAITERS_PER_PLACE)
            assert take(0.0) == "too many calls wait for others to end"
        assert set(waits) == {"place"}
    with places.take(0.0):
        assert take(0.0) == "1 other calls were in flight until the deadline was near"
    assert take(0.0) == "place"


def test_few_tasks_wait() -> None:
    async def take_many() -> list[str]:
        places = AsyncPlaces(1, 0.0)

        async def take(end: float) -> str:
            try:
                await places.enter(end)
            except NoAnswer as why:
                return str(why)
            places.leave()
            return "place"

        await places.enter(0.0)
        waits = [take(time.monotonic() + 0.5) for _ in range(WAITERS_PER_PLACE + 2)]
        ended = await asyncio.gather(*waits)
        places.leave()
        return [*ended, await take(0.0)]

    assert Counter(asyncio.run(take_many())) == {
        "1 other calls were in flight until the deadline was near": WAITERS_PER_PLACE,
        "too many calls wait for others to end": 2,
        "place": 1,
    }


def test_a_task_that_is_cancelled_gives_its_place_back() -> None:
    async def cancel_checks(url: str) -> None:
        logged: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        async with AsyncClient([url], deadline=2.0, max_in_flight=1) as client:
            tasks = [asyncio.create_task(client.check("api")) for _ in range(3)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(task.cancelled() for task in tasks)
            # The call of the first goes on.
            assert (len(client._calls), waiting(client._places)) == (1, 0)
            await asyncio.wait(client._calls)
            await client._places.enter(0.0)
            # The cancelled checks hold the task of the call.
            del task
            tasks.clear()
            gc.collect()
            assert logged == []

    with stub(silent) as server:
        asyncio.run(cancel_checks(server.url))
