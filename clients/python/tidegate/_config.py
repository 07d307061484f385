"""What a client is told: the nodes, the deadline, the fail mode, the token, the denial cache and the bound of calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

FailMode = Literal["allow", "deny"]

# The longest deadline, in seconds. The system takes no timeout of any length.
MAX_DEADLINE = 3600
# The host and the port of a URL, without a user. A host is a name of labels of 1 to 63 characters, or an address.
_HOST = re.compile(r"([\w-]{1,63}(\.[\w-]{1,63})*\.?|\[[^\[\]@]+\])(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Config:
    """The arguments of `Client` and `AsyncClient`, which describe them."""

    nodes: Sequence[str]
    deadline: float
    fail_mode: FailMode
    token: str | None
    denial_cache_size: int
    denial_cache_longest: float
    max_in_flight: int

    @property
    def least_time(self) -> float:
        """Returns the time that a node needs to answer, in seconds. A call that waited is not sent if it has less, and
        a node that fails in less is not paused."""
        return self.deadline / 4

    def __post_init__(self) -> None:
        """Raises a `ValueError` that names the argument that is wrong."""
        if isinstance(self.nodes, str) or not self.nodes:
            raise ValueError("nodes: expected a list of at least one base URL")
        for at, node in enumerate(self.nodes):
            if not is_base_url(node):
                raise ValueError(f"nodes[{at}]: expected a base URL such as http://10.0.0.1:8080, not {node!r}")
        if not 0 < self.deadline <= MAX_DEADLINE:
            raise ValueError(
                f"deadline: expected more than 0 and at most {MAX_DEADLINE} seconds, not {self.deadline!r}"
            )
        if self.fail_mode not in ("allow", "deny"):
            raise ValueError(f"fail_mode: expected 'allow' or 'deny', not {self.fail_mode!r}")
        if self.token is not None and not is_header_value(self.token):
            raise ValueError("token: expected printable ASCII without a line break")
        if self.denial_cache_size < 0:
            raise ValueError(f"denial_cache_size: expected 0 or more, not {self.denial_cache_size!r}")
        if not self.denial_cache_longest > 0:
            raise ValueError(f"denial_cache_longest: expected more than 0 seconds, not {self.denial_cache_longest!r}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight: expected 1 or more, not {self.max_in_flight!r}")


def is_base_url(text: str) -> bool:
    """True for a URL of a node, without a user and a query."""
    if re.search(r"[^!-~]|[?#]", text):
        return False
    try:
        url = urlsplit(text)
        _ = url.port  # This raises if the port is too large.
    except ValueError:
        return False
    return url.scheme in ("http", "https") and _HOST.fullmatch(url.netloc) is not None


def is_header_value(text: str) -> bool:
    """True if a text can be sent in a header as it is."""
    return text.isascii() and text.isprintable() and text == text.strip() and text != ""
