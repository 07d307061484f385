"""An ASGI application whose users may ask five times a minute, with the sample rules of `tidegate dev`.

tidegate dev &
uvicorn --app-dir examples asgi_app:app &
curl -i -H 'X-User: u1' http://127.0.0.1:8000/
"""

import os

from tidegate import AsyncClient, Check
from tidegate.asgi import DECISION, RateLimitMiddleware, Receive, Scope, Send


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    body = f"hello; decided by: {scope[DECISION].source}\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def describe(scope: Scope) -> Check | None:
    return Check("demo", {"user": dict(scope["headers"]).get(b"x-user", b"").decode("latin-1")})


client = AsyncClient([os.environ.get("TIDEGATE_URL", "http://127.0.0.1:8080")])
app = RateLimitMiddleware(hello, client, describe)
