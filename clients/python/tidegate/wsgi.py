"""The middleware for WSGI applications such as Flask and Django."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ._check import Check
from ._sync import Client

# Where the application finds the decision in the environment.
DECISION = "tidegate.decision"


class RateLimitMiddleware:
    """Asks for each request before the application sees it.

    `describe` returns what to ask for an environment, or `None` for a request that is not limited. A request that is
    denied is answered with the decision's status and headers. A check that is an error raises, so that the server
    answers 500.
    """

    def __init__(
        self, app: WSGIApplication, client: Client, describe: Callable[[WSGIEnvironment], Check | None]
    ) -> None:
        self._app = app
        self._client = client
        self._describe = describe

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        check = self._describe(environ)
        if check is None:
            return self._app(environ, start_response)
        sent = {
            name[len("HTTP_") :].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")
        }
        decision = self._client.check(
            check.domain,
            check.attributes,
            hits=check.hits,
            descriptors=check.descriptors,
            overdraft=check.overdraft,
            headers=sent,
        )
        added = list(decision.headers.items())
        if not decision.allowed:
            phrase = HTTPStatus(decision.status).phrase
            start_response(f"{decision.status} {phrase}", [("Content-Type", "text/plain"), *added])
            return [phrase.encode()]
        environ[DECISION] = decision

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
            return start_response(status, headers + added, *rest)

        return self._app(environ, start)
