"""A check: what a client asks a node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Check:
    """What is asked."""

    domain: str
    """The domain of the rules."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What the rules match and count by: one descriptor."""
    hits: int = 1
    """How many hits the request costs. 0 asks whether one hit would pass, and charges nothing."""
    descriptors: Sequence[Mapping[str, str]] = ()
    """Several descriptors, 1 to 100, in place of `attributes`. The check is allowed if all limits of all of them allow
    it."""
    overdraft: bool = False
    """True charges the hits even if they do not fit, for a cost that is known only afterwards. The decision still says
    whether they fit. Such a check always asks a node."""

    def _json(self) -> dict[str, Any]:
        """Returns the check as it is sent."""
        sent: dict[str, Any] = {"domain": self.domain, "hits": self.hits}
        if self.attributes:
            sent["attributes"] = _sent(self.attributes)
        if self.descriptors:
            sent["descriptors"] = [_sent(descriptor) for descriptor in self.descriptors]
        if self.overdraft:
            sent["overdraft"] = True
        return sent

    @cached_property
    def _key(self) -> str:
        """Returns a text that is equal for checks of the same counters."""
        descriptors = [sorted(descriptor.items()) for descriptor in self.descriptors]
        return json.dumps([self.domain, sorted(self.attributes.items()), descriptors])

    @property
    def _hits_of_denial(self) -> int:
        """Returns the hits of a denial that may cover this check. No denial covers 0 hits."""
        return 0 if self.overdraft else self.hits


def _sent(attributes: Mapping[str, str]) -> dict[str, str | None]:
    """Returns attributes as they are sent. A node rejects the check of a `None`. Of half a character, such as `os` and
    `wsgiref` make of bytes that are not UTF-8, it would reject the whole batch."""
    return {name: None if isinstance(value, str) and _is_broken(value) else value for name, value in attributes.items()}


def _is_broken(text: str) -> bool:
    """Says whether a text has a half of a character."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
