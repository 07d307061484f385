"""The middleware for ASGI applications such as Starlette, FastAPI and Django."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from ._aio import AsyncClient
from ._check import Check

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the application finds the decision in the scope.
DECISION = "tidegate.decision"


class RateLimitMiddleware:
    """Asks for each HTTP request before the application sees it. Other scopes, such as WebSockets, pass.

    `describe` returns what to ask for a scope, or `None` for a request that is not limited. A request that is denied is
    answered with the decision's status and headers. A check that is an error raises, so that the server answers 500.
    """

    def __init__(self, app: App, client: AsyncClient, describe: Callable[[Scope], Check | None]) -> None:
        self._app = app
        self._client = client
        self._describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check = self._describe(scope) if scope["type"] == "http" else None
        if check is None:
            return await self._app(scope, receive, send)
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        decision = await self._client.check(
            check.domain,
            check.attributes,
            hits=check.hits,
            descriptors=check.descriptors,
            overdraft=check.overdraft,
            headers=sent,
        )
        added = [(name.lower().encode(), value.encode("latin-1")) for name, value in decision.headers.items()]
        if not decision.allowed:
            headers = [(b"content-type", b"text/plain"), *added]
            await send({"type": "http.response.start", "status": decision.status, "headers": headers})
            await send({"type": "http.response.body", "body": HTTPStatus(decision.status).phrase.encode()})
            return None
        scope[DECISION] = decision

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        return await self._app(scope, receive, send_with_headers)
