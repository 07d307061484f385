"""A WSGI server whose users may ask five times a minute, with the sample rules of `tidegate dev`.

tidegate dev &
python examples/wsgi_server.py &
curl -i -H 'X-User: u1' http://127.0.0.1:8000/
"""

import os
from collections.abc import Iterable
from wsgiref.simple_server import make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from tidegate import Check, Client
from tidegate.wsgi import DECISION, RateLimitMiddleware


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"hello; decided by: {environ[DECISION].source}\n".encode()]


def describe(environ: WSGIEnvironment) -> Check:
    return Check("demo", {"user": environ.get("HTTP_X_USER", "")})


client = Client([os.environ.get("TIDEGATE_URL", "http://127.0.0.1:8080")])
host, port = os.environ.get("LISTEN", "127.0.0.1:8000").split(":")
with make_server(host, int(port), RateLimitMiddleware(hello, client, describe)) as server:
    print(f"listening on http://{host}:{server.server_port}", flush=True)
    server.serve_forever()
