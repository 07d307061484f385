"""The servers of the tests: real nodes, and stand-ins before them that record and fail."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

# Bounds every wait of a test, in seconds.
PATIENCE = 20.0

RULES = """
version: 1
domains:
  - domain: api
    limits:
      - { name: five-an-hour, match: { kind: slow }, per: [user], limit: 5, window: 1h, algorithm: fixed_window }
      - { name: ten-an-hour, match: { kind: many }, per: [user], limit: 10, window: 1h, algorithm: fixed_window }
      - { name: two-a-second, match: { kind: fast }, per: [user], limit: 2, window: 1s, algorithm: token_bucket }
"""


@dataclass(frozen=True)
class Node:
    url: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """Makes the node stand still: its connections stay open, and it answers nothing."""
        self.process.send_signal(signal.SIGSTOP)


@contextmanager
def node(folder: Path | None = None) -> Iterator[Node]:
    """Runs `tidegate dev`, with RULES if a folder for them is given, and waits until it is ready."""
    program = os.environ.get("TIDEGATE_PROGRAM", "tidegate")
    command = [program, "dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--log-format", "json"]
    if folder is not None:
        (folder / "rules.yaml").write_text(RULES)
        command += ["--rules", str(folder / "rules.yaml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            lines = (json.loads(line) for line in process.stderr)
            url = "http://" + next(line["http"] for line in lines if line["message"] == "serving")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            wait_until(lambda: get(url + "/ready")[0] == 200)
            yield Node(url, process)
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition does not come true"
        time.sleep(0.01)


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, Message]:
    """Returns the status and the headers of a GET."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    try:
        connection.request("GET", parts.path or "/", headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Stub:
    """A server that records the headers of each request."""

    url: str
    seen: list[Message] = field(default_factory=list)
    leaving: threading.Event = field(default_factory=threading.Event)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


class _Server6(_Server):
    address_family = socket.AF_INET6


@contextmanager
def stub(
    answer: Callable[[Stub, bytes, Message], Answer], tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Stub]:
    """Runs a server that answers with `answer`, which gets the server and the request."""
    made = Stub("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.seen.append(self.headers)
            status, headers, text = answer(made, body, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "content-length" not in headers:
                self.send_header("content-length", str(len(text)))
            self.end_headers()
            try:
                self.wfile.write(text)
                while int(headers.get("content-length", 0)) > len(text) and not made.leaving.wait(0.01):
                    self.wfile.write(b" ")
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = _Server6((host, 0), Handler) if ":" in host else _Server((host, 0), Handler)
    made.url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        made.url = made.url.replace("http:", "https:")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield made
    finally:
        made.leaving.set()
        server.shutdown()
        server.server_close()


def passing_on(node: Node, delay: float = 0.0) -> Callable[[Stub, bytes, Message], Answer]:
    """Passes a check on to a node."""

    def pass_on(_stub: Stub, body: bytes, headers: Message) -> Answer:
        time.sleep(delay)
        connection = http.client.HTTPConnection(urlsplit(node.url).netloc, timeout=PATIENCE)
        connection.request("POST", "/v1/check", body, {k: v for k, v in headers.items() if k.lower() != "host"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        kept = {name: value for name, value in answer.getheaders() if name != "date"}
        return answer.status, kept, text

    return pass_on


def overloaded(node: Node, most: int) -> Callable[[Stub, bytes, Message], Answer]:
    """Passes checks on to a node. Answers nothing while it has more than some checks at once."""
    pass_on, lock, in_flight = passing_on(node, delay=0.02), threading.Lock(), 0

    def answer(stub: Stub, body: bytes, headers: Message) -> Answer:
        nonlocal in_flight
        with lock:
            in_flight += 1
            too_many = in_flight > most
        try:
            return (silent if too_many else pass_on)(stub, body, headers)
        finally:
            # The client may send its next check when it has the answer.
            with lock:
                in_flight -= 1

    return answer


def answering(status: int, text: str = "{}", **headers: str) -> Callable[[Stub, bytes, Message], Answer]:
    return lambda _stub, _body, _headers: (status, headers, text.encode())


def silent(stub: Stub, _body: bytes, _headers: Message) -> Answer:
    """Answers when the test ends."""
    stub.leaving.wait(PATIENCE)
    return 200, {}, b""


def dripping(_stub: Stub, _body: bytes, _headers: Message) -> Answer:
    """Sends an answer one byte at a time, for 20 seconds."""
    return 200, {"content-length": "2000"}, b"{"
