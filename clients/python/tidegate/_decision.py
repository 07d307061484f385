"""The answer to a check, and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

Source = Literal["node", "denial_cache", "fail_mode"]

# The headers of an answer that belong on the response to the user.
COPIED = {
    b"ratelimit": "RateLimit",
    b"ratelimit-policy": "RateLimit-Policy",
    b"retry-after": "Retry-After",
    b"www-authenticate": "WWW-Authenticate",
}

# A Retry-After in seconds. One with a date is not read.
SECONDS = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Check:
    """What a middleware asks for a request."""

    domain: str
    attributes: Mapping[str, str]
    hits: int = 1


@dataclass(frozen=True)
class Limit:
    """The state of one limit after a check. Times are in milliseconds."""

    name: str
    descriptor: int
    algorithm: str
    limit: int | None
    """The hits of a window; `None` is unlimited."""
    remaining: int | None
    """The hits that are left; `None` is unlimited."""
    window_ms: int
    reset_ms: int
    """The time until the whole limit is free again if nothing more is asked."""
    refused: bool
    """True if this limit denies the check."""
    shadow: bool
    """True if the limit only reports."""


@dataclass(frozen=True)
class Decision:
    """The answer to a check."""

    allowed: bool
    status: int
    """The status to answer with: 200, 429, 401 for an API key that is not valid, or 503 if no node answered and the
    fail mode denies."""
    source: Source
    """Who decided: a node, an earlier denial that has not ended, or the fail mode because no node answered."""
    degraded: bool = False
    """True if the node decided without its store."""
    partitioned: bool = False
    """True if the region decided without the counts of other regions."""
    reason: str | None = None
    """Why the check is denied if no limit denied it, such as `unknown_key`."""
    revision: int = 0
    """The revision of the rules."""
    request_id: str = ""
    """The id under which the node knows the check."""
    retry_after_ms: int | None = None
    """When asking again helps. `None` if the check is allowed or if no wait helps."""
    limits: tuple[Limit, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """RateLimit, RateLimit-Policy, Retry-After and WWW-Authenticate, as far as the node sent them, to be copied to the
    response."""
    failure: str | None = None
    """Why no node answered. `None` unless `source` is `fail_mode`."""


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of a check."""

    pointer: str
    """The JSON pointer of the field, such as `/attributes/user`."""
    detail: str


class RejectedError(Exception):
    """A node does not take a check: 400, 401 without a reason, 413 and so on. The fail mode never applies."""

    def __init__(self, status: int, title: str, errors: tuple[FieldError, ...]) -> None:
        details = "".join(f"; {error.pointer}: {error.detail}" for error in errors)
        super().__init__(f"the check was rejected with status {status}: {title}{details}")
        self.status = status
        self.title = title
        self.errors = errors


class AnswerError(Exception):
    """An answer is not that of a node: the URL may be wrong. The fail mode never applies."""


class FailedNode(Exception):
    """A node gave no answer. The next node may give one."""


def decode(url: str, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Decision:
    """Reads an answer.

    Raises `FailedNode` for status 5xx, and `RejectedError` or `AnswerError` for another answer that decides nothing.
    """
    if status >= 500:
        raise FailedNode(f"{url}: status {status}")
    try:
        read = json.loads(body)
    except ValueError:
        read = None
    answer: dict[str, Any] = read if isinstance(read, dict) else {}
    try:
        if status in (200, 401, 429) and isinstance(answer.get("allowed"), bool):
            return _decision(status, headers, answer)
        errors = tuple(FieldError(str(e["pointer"]), str(e["detail"])) for e in answer.get("errors", ()))
    except (KeyError, TypeError) as error:
        raise AnswerError(f"{url}: expected the answer of a node: {error!r}") from error
    if status == 429:
        return _plain_denial(headers)
    if status < 400:
        raise AnswerError(f"{url}: expected the answer of a node, not status {status} with another body")
    known = status in HTTPStatus.__members__.values()
    raise RejectedError(status, str(answer.get("title") or (HTTPStatus(status).phrase if known else "")), errors)


def _decision(status: int, headers: Iterable[tuple[bytes, bytes]], answer: dict[str, Any]) -> Decision:
    names = Limit.__dataclass_fields__
    return Decision(
        allowed=answer["allowed"],
        status=status,
        source="node",
        degraded=answer.get("degraded", False),
        partitioned=answer.get("partitioned", False),
        reason=answer.get("reason"),
        revision=answer.get("revision", 0),
        request_id=answer.get("request_id", ""),
        retry_after_ms=answer.get("retry_after_ms"),
        limits=tuple(Limit(**{name: limit[name] for name in names}) for limit in answer.get("limits", ())),
        headers=_copied(headers),
    )


def _plain_denial(headers: Iterable[tuple[bytes, bytes]]) -> Decision:
    """Returns the decision of an answer with status 429 whose body is not that of a decision."""
    copied = _copied(headers)
    wait = copied.get("Retry-After", "")
    retry_after_ms = int(wait) * 1000 if SECONDS.fullmatch(wait) else None
    return Decision(allowed=False, status=429, source="node", retry_after_ms=retry_after_ms, headers=copied)


def _copied(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {COPIED[name.lower()]: value.decode("latin-1") for name, value in headers if name.lower() in COPIED}
