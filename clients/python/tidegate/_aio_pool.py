"""The connections of the client for asyncio."""

from __future__ import annotations

import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore

from ._aio_backend import Backend

# How long a connection without a request stays open, in seconds.
_KEPT = 60.0


class Pool:
    """Keeps connections open for the next calls, as many as have been in flight at once.

    httpcore's pool walks over all of its connections and requests whenever a request begins or ends. With 64 calls in
    flight, that takes longer than the calls themselves.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None) -> None:
        self._ssl_context = ssl_context
        self._backend = Backend()
        # All open connections.
        self.connections: set[httpcore.AsyncHTTPConnection] = set()
        # Those of each origin without a request. The last was used last.
        self._idle: defaultdict[str, deque[httpcore.AsyncHTTPConnection]] = defaultdict(deque)

    @asynccontextmanager
    async def post(self, url: str, headers: list[tuple[bytes, bytes]], body: bytes) -> AsyncIterator[httpcore.Response]:
        """Sends a request, and closes or keeps its connection afterwards. A task that is cancelled here may keep its
        connection for ever."""
        length = (b"content-length", str(len(body)).encode())
        request = httpcore.Request("POST", url, headers=[*headers, length], content=body)
        connection = await self._take(request.url.origin)
        try:
            answer = await connection.handle_async_request(request)
            try:
                yield answer
            finally:
                await answer.aclose()
        finally:
            await self._give_back(connection, request.url.origin)

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        idle = self._idle[str(origin)]
        while idle:
            connection = idle.pop()
            if not connection.has_expired():
                return connection
            await self._close(connection)
        connection = httpcore.AsyncHTTPConnection(
            origin, self._ssl_context, keepalive_expiry=_KEPT, network_backend=self._backend
        )
        self.connections.add(connection)
        return connection

    async def _give_back(self, connection: httpcore.AsyncHTTPConnection, origin: httpcore.Origin) -> None:
        idle = self._idle[str(origin)]
        if connection.is_idle() and not connection.is_closed():
            idle.append(connection)
        else:
            await self._close(connection)
        # After a burst, the connections that nobody needs any more end one by one.
        if idle and idle[0].has_expired():
            await self._close(idle.popleft())

    async def _close(self, connection: httpcore.AsyncHTTPConnection) -> None:
        self.connections.discard(connection)
        await connection.aclose()

    async def aclose(self) -> None:
        """Closes all connections."""
        self._idle.clear()
        while self.connections:
            await self.connections.pop().aclose()
