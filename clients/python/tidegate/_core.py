"""What both clients do apart from sending: the body, the order of the nodes, the time of a try, the fail mode."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ._check import Check
from ._config import Config, is_header_value
from ._decision import Answer, Decision, NoAnswer, RejectedError, decode, decode_all
from ._denials import DenialCache

try:
    from opentelemetry import propagate
except ImportError:  # It is optional.
    propagate = None  # type: ignore[assignment]

# How long a node that failed is asked only after the others, in seconds.
PAUSE = 1.0
# How often a call is sent at most.
MAX_TRIES = 2
# The longest bodies that a node takes, of a check and of a batch. A node may close the connection of a longer one
# before its answer is read, as if it had failed.
MAX_BODY = 64 << 10
MAX_BATCH_BODY = 1 << 20
# How many bytes of an answer are read.
MAX_ANSWER = 1 << 20
MAX_BATCH_ANSWER = 16 << 20
# The headers of the caller's request that are sent to the node.
PASSED_ON = ("traceparent", "tracestate", "x-request-id")
# The longest value of these headers that is sent. A user may choose them, and a node closes a connection whose head is
# too long, as if it had failed.
MAX_HEADER = 1024


@dataclass(frozen=True)
class Call:
    """What is sent to a node."""

    path: str
    body: bytes
    headers: list[tuple[bytes, bytes]]
    max_answer: int

    def headers_for(self, url: str) -> list[tuple[bytes, bytes]]:
        """Returns the headers with the host of a node. httpcore would leave out the brackets of an IPv6 address."""
        return [(b"host", urlsplit(url).netloc.encode()), *self.headers]


class Core:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.denials = DenialCache(config.denial_cache_size, config.denial_cache_longest)
        self._urls = [node.rstrip("/") for node in config.nodes]
        self._paused_until = dict.fromkeys(self._urls, 0.0)

    def call(self, check: Check, headers: Mapping[str, str] | None) -> Call:
        """Writes the call of a check."""
        body = json.dumps(check._json()).encode()
        if len(body) > MAX_BODY:
            raise RejectedError(413, "expected a body of at most 64 KiB", ())
        return Call("/v1/check", body, self._headers(headers), MAX_ANSWER)

    def batch(self, checks: Sequence[Check], headers: Mapping[str, str] | None) -> Call:
        """Writes the call of a batch."""
        body = json.dumps({"checks": [check._json() for check in checks]}).encode()
        if len(body) > MAX_BATCH_BODY:
            raise RejectedError(413, "expected a body of at most 1 MiB", ())
        return Call("/v1/checks", body, self._headers(headers), MAX_BATCH_ANSWER)

    def _headers(self, headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
        sent = [(b"content-type", b"application/json")]
        if self.config.token is not None:
            sent.append((b"authorization", b"Bearer " + self.config.token.encode()))
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if propagate is not None and "traceparent" not in given:
            propagate.inject(given)
        values = {name: given.get(name, "") for name in PASSED_ON}
        return sent + [
            (name.encode(), value.encode())
            for name, value in values.items()
            if is_header_value(value) and len(value) <= MAX_HEADER
        ]

    def remembered(self, check: Check) -> Decision | None:
        """Returns the earlier denial that covers a check."""
        return self.denials.find(check._key, check._hits_of_denial, time.monotonic())

    def order(self) -> list[str]:
        """Returns the URLs of the nodes that a call is sent to: nodes that did not just fail come first."""
        now = time.monotonic()
        urls = sorted(self._urls, key=lambda url: now < self._paused_until[url])
        # One address may stand for several nodes: a second try may reach another one.
        return (urls * MAX_TRIES)[:MAX_TRIES] if len(urls) == 1 else urls[:MAX_TRIES]

    def time_of(self, attempt: int, end: float) -> float:
        """Returns the time of a try. The first takes at most half of the time if there is another node."""
        left = end - time.monotonic()
        return left / 2 if attempt == 0 and len(self._urls) > 1 else left

    def decided(self, check: Check, answer: Answer) -> Decision:
        """Reads an answer, and remembers it if it denies."""
        decision = decode(answer)
        self.denials.add(check._key, check._hits_of_denial, decision, time.monotonic())
        return decision

    def all_decided(self, answer: Answer, count: int) -> list[Decision | RejectedError]:
        """Reads the answer to a batch."""
        results = decode_all(answer, count)
        return [self.fail_mode(result) if isinstance(result, NoAnswer) else result for result in results]

    def failed(self, url: str, within: float) -> None:
        """A node that failed within some time is asked after the others for a while. In a short try, it may be well."""
        if within >= self.config.least_time:
            self._paused_until[url] = time.monotonic() + PAUSE

    def fail_mode(self, why: NoAnswer) -> Decision:
        """Returns the decision when no node answered."""
        allowed = self.config.fail_mode == "allow"
        return Decision(allowed=allowed, status=200 if allowed else 503, source="fail_mode", failure=str(why))
