"""Fixtures: a node with rules, a node that stands still, and a client of each kind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from servers import PATIENCE, Node, node

from tidegate import AsyncClient, Check, Client, Decision, RejectedError
from tidegate._core import Call
from tidegate._decision import Answer

Make = Callable[..., "Asker"]


class Asker:
    """A client of either kind, called in the same way."""

    def __init__(self, client: Client | AsyncClient, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    @property
    def core(self) -> Any:
        return self.client._core

    def check(self, *arguments: Any, **options: Any) -> Decision:
        if isinstance(self.client, Client):
            return self.client.check(*arguments, **options)
        return self._runner.run(self.client.check(*arguments, **options), context=copy_context())

    def check_all(self, *checks: Check) -> list[Decision | RejectedError]:
        return self.check_list(checks)

    def check_list(self, checks: Sequence[Check]) -> list[Decision | RejectedError]:
        if isinstance(self.client, Client):
            return self.client.check_all(checks)
        return self._runner.run(self.client.check_all(checks))

    def send(self, call: Call, end: float) -> Answer:
        """Sends a call without a wait for a place."""
        if isinstance(self.client, Client):
            return self.client._send(call, end)
        return self._runner.run(self.client._send(call, end))

    def at_once(self, count: int, kind: str = "slow", user: str = "u1") -> list[Decision]:
        """Makes many checks at once."""
        client, attributes = self.client, {"kind": kind, "user": user}
        if isinstance(client, Client):
            with ThreadPoolExecutor(count) as threads:
                return list(threads.map(lambda _: client.check("api", attributes), range(count)))

        async def ask_all() -> list[Decision]:
            return await asyncio.gather(*(client.check("api", attributes) for _ in range(count)))

        return self._runner.run(ask_all())

    def slow(self, user: str = "u1", **options: Any) -> Decision:
        return self.check("api", {"kind": "slow", "user": user}, **options)

    def use_up(self, user: str = "u1", kind: str = "slow") -> tuple[int, Decision]:
        """Asks until a check is denied. Returns how many were allowed, and the denial."""
        for allowed in range(100):
            decision = self.check("api", {"kind": kind, "user": user})
            if not decision.allowed:
                return allowed, decision
        raise AssertionError("expected a denial")


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes clients of both kinds, and closes them."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def make_one(*nodes: str, **options: Any) -> Asker:
            options.setdefault("deadline", PATIENCE)
            if request.param == "threads":
                return Asker(stack.enter_context(Client(nodes, **options)), runner)
            client = AsyncClient(nodes, **options)
            stack.callback(lambda: runner.run(client.aclose()))
            return Asker(client, runner)

        yield make_one


@pytest.fixture
def a_node(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as made:
        yield made


@pytest.fixture
def stopped_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("stopped")) as made:
        made.stop()
        yield made


@pytest.fixture
def dead() -> str:
    """The URL of a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
