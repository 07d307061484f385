"""The answer to a check, and how it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
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


class NoAnswer(Exception):
    """Why no node answered. The fail mode decides."""


@dataclass
class Answer:
    """What was read of a node's answer. The status is below 500."""

    url: str
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    def add(self, part: bytes, most: int) -> bool:
        """Adds a part of the body. Returns false, and forgets the body, if it is too long: it decides nothing then."""
        self.body += part
        if len(self.body) <= most:
            return True
        self.body.clear()
        return False

    def refuses(self) -> bool:
        """Returns true if the status refuses the check even if the body cannot be read."""
        return 400 <= self.status < 500

    def json(self) -> dict[str, Any]:
        try:
            read = json.loads(self.body)
        except (ValueError, RecursionError):
            read = None
        return read if isinstance(read, dict) else {}

    def refusal(self) -> RejectedError | AnswerError:
        """Returns the error of an answer that decides nothing."""
        if self.status < 400:
            return AnswerError(
                f"{self.url}: expected the answer of a node, not status {self.status} with another body"
            )
        return _rejected(self.status, self.json())


def decode(answer: Answer) -> Decision:
    """Reads the answer to one check. Raises `RejectedError` or `AnswerError` if it decides nothing."""
    read = answer.json()
    # Only a status of 200 allows.
    if answer.status in (200, 401, 429) and read.get("allowed") is (answer.status == 200):
        with suppress(KeyError, TypeError):
            return _decision(answer.status, answer.headers, read)
    if answer.status == 429:
        return _plain_denial(answer.headers)
    raise answer.refusal()


def decode_all(answer: Answer, count: int) -> list[Decision | RejectedError | NoAnswer]:
    """Reads the answer to a batch. Raises `RejectedError` or `AnswerError` if it decides nothing."""
    results = answer.json().get("results")
    if answer.status != 200 or not isinstance(results, list) or len(results) != count:
        raise answer.refusal()
    try:
        return [_decode_one(answer, result) for result in results]
    except (KeyError, TypeError) as error:
        raise AnswerError(f"{answer.url}: expected the answer of a node: {error!r}") from error


def _decode_one(answer: Answer, result: Any) -> Decision | RejectedError | NoAnswer:
    """Reads the answer to one check of a batch."""
    if not isinstance(result, dict):
        raise answer.refusal()
    if isinstance(result.get("allowed"), bool):
        invalid_key = str(result.get("reason")).endswith("_key")
        return _decision(200 if result["allowed"] else 401 if invalid_key else 429, (), result)
    problem = result["error"]
    status = problem["status"]
    if status < 400:
        raise answer.refusal()
    return _rejected(status, problem) if status < 500 else NoAnswer(f"no node answered: {answer.url}: status {status}")


def _rejected(status: int, problem: dict[str, Any]) -> RejectedError:
    known = status in HTTPStatus.__members__.values()
    title = str(problem.get("title") or (HTTPStatus(status).phrase if known else ""))
    try:
        errors = tuple(FieldError(str(e["pointer"]), str(e["detail"])) for e in problem.get("errors", ()))
    except (KeyError, TypeError):
        errors = ()
    return RejectedError(status, title, errors)


def _decision(status: int, headers: Iterable[tuple[bytes, bytes]], answer: dict[str, Any]) -> Decision:
    """Reads a decision. Raises `KeyError` or `TypeError` if it is not that of a node."""
    names = Limit.__dataclass_fields__
    limits = tuple(Limit(**{name: limit[name] for name in names}) for limit in answer.get("limits", ()))
    retry_after_ms = answer.get("retry_after_ms")
    # The denial cache calculates with these.
    if not all(isinstance(time, int) for time in (retry_after_ms or 0, *(limit.reset_ms for limit in limits))):
        raise TypeError("expected times in whole milliseconds")
    return Decision(
        allowed=answer["allowed"],
        status=status,
        source="node",
        degraded=answer.get("degraded", False),
        partitioned=answer.get("partitioned", False),
        reason=answer.get("reason"),
        revision=answer.get("revision", 0),
        request_id=answer.get("request_id", ""),
        retry_after_ms=retry_after_ms,
        limits=limits,
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
