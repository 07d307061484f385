"""Asks the nodes of a Tidegate region whether a request may pass.

`Client` is for threads, `AsyncClient` for asyncio. `tidegate.wsgi` and `tidegate.asgi` have the middleware.
"""

from ._aio import AsyncClient
from ._check import Check
from ._config import FailMode
from ._decision import AnswerError, Decision, FieldError, Limit, RejectedError, Source
from ._sync import Client

__all__ = [
    "AnswerError",
    "AsyncClient",
    "Check",
    "Client",
    "Decision",
    "FailMode",
    "FieldError",
    "Limit",
    "RejectedError",
    "Source",
]
