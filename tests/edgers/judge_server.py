"""A language model's server on this machine, which answers as a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TICK = 0.005  # seconds between two bytes of an answer that drips


@dataclass
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    client: tuple[str, int]

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for an answer
    server: JudgeServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked = Asked(self.path, dict(self.headers), body, self.client_address)
        with self.server.lock:
            self.server.asked.append(self.asked)
            respond = self.server.script.pop(0) if self.server.script else self.server.respond
        respond(self)

    def do_GET(self):
        self.server.asked.append(Asked(self.path, dict(self.headers), {}, self.client_address))
        self.send(b"", status=200)

    def send(self, body, *, status=200, content_type="application/json", **headers):
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self):
        self.close_connection = True

    def log_message(self, *_):
        pass


Respond = Callable[[Handler], None]


class JudgeServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, respond: Respond):
        super().__init__(("127.0.0.1", 0), Handler)
        self.respond, self.script, self.asked = respond, list[Respond](), list[Asked]()
        self.lock, self.closing = threading.Lock(), threading.Event()

    def handle_error(self, *_):
        """A client that hangs up is what is tested."""

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def serving(respond: Respond) -> Iterator[JudgeServer]:
    """A server in a thread; whoever still writes when the test ends is told to stop."""
    with JudgeServer(respond) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


# --- what a server may answer -------------------------------------------------------------------------------


def completion(content: Any = "harmful", **choice: Any) -> bytes:
    """What a well-behaved server sends, with much that nobody asked for."""
    message = {"role": "assistant", "content": content, "refusal": None}
    answered = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None, **choice}
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "choices": [answered], "usage": {"total_tokens": 9}}
    ).encode()


def says(content: Any = "harmful", **choice: Any) -> Respond:
    return lambda handler: handler.send(completion(content, **choice))


def decides(decide: Callable[[str], str]) -> Respond:
    """What a server says that reads the prompt."""
    return lambda handler: handler.send(completion(decide(handler.asked.prompt)))


def sends(body: bytes, **how: Any) -> Respond:
    return lambda handler: handler.send(body, **how)


def writes(*pieces: bytes) -> Respond:
    """These very bytes, then the end of the connection."""

    def respond(handler: Handler) -> None:
        for piece in pieces:
            handler.wfile.write(piece)
        handler.hang_up()

    return respond


def drips(head: bytes, drop: bytes) -> Respond:
    """One drop after another, for ever: a timeout for each read never ends it."""

    def respond(handler: Handler) -> None:
        handler.wfile.write(head)
        while not handler.server.closing.wait(TICK):
            handler.wfile.write(drop)

    return respond


def holds(*pieces: bytes) -> Respond:
    """These bytes, then nothing, and the connection stays open."""

    def respond(handler: Handler) -> None:
        for piece in pieces:
            handler.wfile.write(piece)
        handler.server.closing.wait()

    return respond


def pours(head: bytes, megabytes: int) -> Respond:
    """A head, and much more than anybody asked for."""

    def respond(handler: Handler) -> None:
        handler.wfile.write(head)
        for _ in range(megabytes):
            handler.wfile.write(b" " * (1 << 20))
        handler.hang_up()

    return respond


@dataclass
class Together:
    """Answers when `parties` questions are there at once; counts how many were."""

    parties: int
    most: int = 0
    inside: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.parties)

    def __call__(self, handler: Handler) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.barrier.wait(60)
        with self.lock:
            self.inside -= 1
        handler.send(completion())


def prompts_of(asked: Sequence[Asked]) -> list[str]:
    return [each.prompt for each in asked]
