"""Connections are used again, and none stays open that nobody needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import Make
from servers import PATIENCE, answering, stub

from tidegate import AsyncClient, Check, _aio_pool
from tidegate._decision import NoAnswer

# How many moments of a check are tried.
MOMENTS = 150


def busy(client: Any) -> list[str]:
    """Returns the connections that wait for an answer, although no check does."""
    return [str(connection) for connection in client._pool.connections if not connection.is_idle()]


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition does not come true"
        await asyncio.sleep(0.01)


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
            await until(lambda: busy(client) == [])
            assert (await client.check("api")).allowed

    with stub(answering(200, '{"allowed":true}')) as server:
        asyncio.run(cancel_at_each_moment(server.url))


def test_the_connections_of_a_burst_end_when_nobody_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aio_pool, "_KEPT", 0.05)

    async def ask(url: str) -> None:
        async with AsyncClient([url], deadline=PATIENCE) as client:
            await asyncio.gather(*(client.check("api") for _ in range(20)))
            assert len(client._pool.connections) > 1
            end = time.monotonic() + PATIENCE
            while len(client._pool.connections) > 1:
                assert time.monotonic() < end, "the connections stay open"
                await client.check("api")

    with stub(answering(200, '{"allowed":true}')) as server:
        asyncio.run(ask(server.url))


def test_a_connection_that_a_node_has_closed_is_not_used() -> None:
    async def ask(other: str) -> None:
        closing = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{"allowed":true}')
            await closing.wait()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, AsyncClient([url, other], deadline=PATIENCE) as client:
            assert (await client.check("api")).allowed
            (kept,) = client._pool.connections
            closing.set()
            await until(kept.has_expired)
            assert (await client.check("api")).allowed
            assert kept not in client._pool.connections

    with stub(answering(200, '{"allowed":true}')) as other:
        asyncio.run(ask(other.url))
        assert other.seen == []
