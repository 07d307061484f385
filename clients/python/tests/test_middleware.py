"""The examples, and the middleware of both kinds in real servers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import uvicorn
from servers import PATIENCE, Node, get, node, passing_on, stub, wait_until

from tidegate import AsyncClient, Check, Client, asgi, wsgi

FOLDER = Path(__file__).parent.parent


def check(domain: str, path: str, user: str) -> Check | None:
    return None if path == "/health" else Check(domain, {"kind": "slow", "user": user})


@contextmanager
def wsgi_server(domain: str, nodes: list[str], **options: Any) -> Iterator[str]:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        decision = environ.get(wsgi.DECISION)
        start_response("200 OK", [("Decided-By", decision.source if decision else "nobody")])
        return [b""]

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with Client(nodes, deadline=PATIENCE, **options) as client:
        limited = wsgi.RateLimitMiddleware(
            application, client, lambda e: check(domain, e["PATH_INFO"], e.get("HTTP_X_USER", ""))
        )
        with make_server("127.0.0.1", 0, limited, handler_class=Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()


@contextmanager
def asgi_server(domain: str, nodes: list[str], **options: Any) -> Iterator[str]:
    async def application(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        decision = scope.get(asgi.DECISION)
        decided_by = decision.source.encode() if decision else b"nobody"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"decided-by", decided_by)]})
        await send({"type": "http.response.body", "body": b""})

    def describe(scope: asgi.Scope) -> Check | None:
        return check(domain, scope["path"], dict(scope["headers"]).get(b"x-user", b"").decode())

    limited = asgi.RateLimitMiddleware(application, AsyncClient(nodes, deadline=PATIENCE, **options), describe)
    server = uvicorn.Server(uvicorn.Config(limited, lifespan="off", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: server.run([listener]))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


Serve = Callable[..., Any]
both = pytest.mark.parametrize("serve", [wsgi_server, asgi_server])


@both
def test_the_middleware_answers_denials(serve: Serve, a_node: Node) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with stub(passing_on(a_node)) as proxy, serve("api", [proxy.url]) as server:
        for _ in range(5):
            status, headers = get(server, {"X-User": "u1", "traceparent": trace})
            assert (status, headers["Decided-By"]) == (200, "node")
            assert headers["RateLimit"] and headers["RateLimit-Policy"]
        status, headers = get(server, {"X-User": "u1"})
        assert status == 429
        assert headers["RateLimit"] and headers["RateLimit-Policy"] and headers["Retry-After"]
        assert proxy.seen[0]["traceparent"] == trace
        status, headers = get(server + "/health", {"X-User": "u1"})
        assert (status, headers["Decided-By"]) == (200, "nobody")


@both
def test_the_middleware_fails_as_configured(serve: Serve, dead: str) -> None:
    with serve("api", [dead]) as server:
        status, headers = get(server)
        assert (status, headers["Decided-By"]) == (200, "fail_mode")
    with serve("api", [dead], fail_mode="deny") as server:
        assert get(server)[0] == 503


@both
def test_a_rejected_check_is_status_500(serve: Serve, a_node: Node) -> None:
    with serve("", [a_node.url]) as server:
        assert get(server)[0] == 500


@pytest.mark.parametrize(
    "command",
    [
        ["examples/wsgi_server.py"],
        ["-m", "uvicorn", "--app-dir", "examples", "--port", "0", "asgi_app:app"],
    ],
)
def test_the_examples_run(command: list[str]) -> None:
    with node() as running:
        environment = {**os.environ, "TIDEGATE_URL": running.url, "LISTEN": "127.0.0.1:0"}
        with subprocess.Popen(
            [sys.executable, *command],
            cwd=FOLDER,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as example:
            try:
                assert example.stdout is not None
                found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in example.stdout)
                server = next(match[0] for match in found if match)
                statuses = [get(server, {"X-User": "u1"})[0] for _ in range(6)]
                assert statuses == [200] * 5 + [429]
            finally:
                example.kill()
