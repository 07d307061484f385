"""What both clients do apart from sending: the body, the order of the nodes, the time of a try, the fail mode."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ._config import Config, is_header_value
from ._decision import Decision, FailedNode, RejectedError, decode
from ._denials import DenialCache

try:
    from opentelemetry import propagate
except ImportError:  # It is optional.
    propagate = None  # type: ignore[assignment]

# How long a node that failed is asked only after the others, in seconds.
PAUSE = 1.0
# How often a check is sent at most.
MAX_TRIES = 2
# The longest body that a node takes. A node may close the connection of a longer one before its answer is read, as if
# it had failed.
MAX_BODY = 64 << 10
# How many bytes of an answer are read.
MAX_ANSWER = 1 << 20
# How many connections a client has at most.
MAX_CONNECTIONS = 100
# The headers of the caller's request that are sent to the node.
PASSED_ON = ("traceparent", "tracestate", "x-request-id")


@dataclass(frozen=True)
class Call:
    """A check as it is sent."""

    key: str
    hits: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


@dataclass
class Answer:
    """What was read of an answer."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)

    def add(self, part: bytes) -> bool:
        """Adds a part of the body. Returns false, and forgets the body, if it is too long: it decides nothing then."""
        self.body += part
        if len(self.body) <= MAX_ANSWER:
            return True
        self.body.clear()
        return False

    def refuses(self) -> bool:
        """Returns true if the status refuses the check even if the body cannot be read."""
        return 400 <= self.status < 500


class Core:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.denials = DenialCache(config.denial_cache_size, config.denial_cache_longest)
        self._urls = [node.rstrip("/") + "/v1/check" for node in config.nodes]
        self._paused_until = dict.fromkeys(self._urls, 0.0)

    def call(
        self, domain: str, attributes: Mapping[str, str] | None, hits: int, headers: Mapping[str, str] | None
    ) -> Call:
        """Writes a check. The key of its denial has the domain and the sorted attributes."""
        counted = dict(attributes or {})
        body = json.dumps({"domain": domain, "attributes": counted, "hits": hits}).encode()
        if len(body) > MAX_BODY:
            raise RejectedError(413, "expected a body of at most 64 KiB", ())
        sent = [(b"content-type", b"application/json")]
        if self.config.token is not None:
            sent.append((b"authorization", b"Bearer " + self.config.token.encode()))
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if propagate is not None and "traceparent" not in given:
            propagate.inject(given)
        sent += [(name.encode(), given[name].encode()) for name in PASSED_ON if is_header_value(given.get(name, ""))]
        return Call(json.dumps([domain, sorted(counted.items())]), hits, body, sent)

    def remembered(self, call: Call) -> Decision | None:
        """Returns the earlier denial that covers a check."""
        return self.denials.find(call.key, call.hits, time.monotonic())

    def order(self) -> list[str]:
        """Returns the URLs that a check is sent to: nodes that did not just fail come first."""
        now = time.monotonic()
        urls = sorted(self._urls, key=lambda url: now < self._paused_until[url])
        # One address may stand for several nodes: a second try may reach another one.
        return (urls * MAX_TRIES)[:MAX_TRIES] if len(urls) == 1 else urls[:MAX_TRIES]

    def end_of(self, attempt: int, end: float) -> float:
        """Returns when a try ends. The first takes at most half of the time if there is another node."""
        if attempt > 0 or len(self._urls) == 1:
            return end
        return end - (end - time.monotonic()) / 2

    def decided(self, call: Call, url: str, answer: Answer) -> Decision:
        """Reads an answer, and remembers it if it denies."""
        decision = decode(url, answer.status, answer.headers, bytes(answer.body))
        self.denials.add(call.key, call.hits, decision, time.monotonic())
        return decision

    def failed(self, url: str) -> None:
        """A node that failed is asked after the others for a while."""
        self._paused_until[url] = time.monotonic() + PAUSE

    def fail_mode(self, failures: list[FailedNode]) -> Decision:
        """Returns the decision when no node answered."""
        allowed = self.config.fail_mode == "allow"
        why = "no node answered: " + "; ".join(map(str, failures))
        return Decision(allowed=allowed, status=200 if allowed else 503, source="fail_mode", failure=why)
