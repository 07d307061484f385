"""Checks that end early leave no connection behind."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from conftest import Make
from servers import PATIENCE, answering, stub

from tidegate import AsyncClient, Check
from tidegate._decision import NoAnswer

# How many moments of a check are tried.
MOMENTS = 150


def busy(client: Any) -> list[str]:
    """Returns the connections that wait for an answer, although no check does."""
    return [str(connection) for connection in client._pool.connections if not connection.is_idle()]


def test_a_try_whose_time_is_over_leaves_no_connection(make: Make) -> None:
    with stub(answering(200, '{"allowed":true}')) as server:
        asker = make(server.url)
        for moment in range(MOMENTS):
            call = asker.core.call(Check("api"), None)
            try:
                asker.send(call, time.monotonic() + moment * 2e-5)
            except NoAnswer as late:
                assert "no node answered" in str(late)
        assert asker.slow().allowed
        assert busy(asker.client) == []


def test_a_check_that_is_cancelled_leaves_no_connection() -> None:
    async def cancel_at_each_moment(url: str) -> None:
        async with AsyncClient([url], deadline=PATIENCE) as client:
            for moment in range(MOMENTS):
                check = asyncio.create_task(client.check("api"))
                for _ in range(moment):
                    await asyncio.sleep(0)
                check.cancel()
                await asyncio.wait({check})
            end = time.monotonic() + PATIENCE
            while busy(client) and time.monotonic() < end:
                await asyncio.sleep(0.01)
            assert busy(client) == []
            assert (await client.check("api")).allowed

    with stub(answering(200, '{"allowed":true}')) as server:
        asyncio.run(cancel_at_each_moment(server.url))
