"""A language model behind an OpenAI-compatible endpoint: one question at a time, within a deadline, or none.

The server is not trusted to behave: what it sends is bounded in bytes and in time, and read strictly. Nothing
of it but a completed message is used, and nothing of it is ever shown with the key in it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from edgers.oracle.base import Complete, Failure
from edgers.oracle.definition import Endpoint
from edgers.oracle.judge import longest_reply
from edgers_engines.errors import EdgersError, InputError
from edgers_engines.records import Record, parse

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection
    from urllib3.response import HTTPResponse

# What every question says besides model, text and length: a part of the judge's digest.
FIXED = {"temperature": 0, "seed": 0, "stream": False}
MAX_RESPONSE = 1 << 18  # bytes
_FIRST_WAIT = 0.5  # seconds before the third attempt, doubled for each after; the second follows at once
_HINTS = {
    401: ": is key_env right?",
    403: ": is key_env right?",
    404: ": are base_url and model right?",
}
_RETRIED = (429, 500, 502, 503, 504)


class _Message(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    content: str


class _Choice(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    message: _Message
    finish_reason: Literal["stop"]


class _Completion(Record, frozen=True, kw_only=True, forbid_unknown_fields=False):
    choices: Annotated[tuple[_Choice, ...], Meta(min_length=1, max_length=1)]


class _UnansweredError(Exception):
    """There is no answer; after `wait` seconds another attempt may get one, None: it will not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Client:
    """Completes prompts by asking an endpoint.

    TLS is verified against the system's certificates, redirects are not followed, and proxies of the
    environment are not used. Looking up the host's name has the system's own time limit.

    Args:
        endpoint: where and whom to ask.
        max_tokens: longest answer.

    Raises:
        EdgersError: urllib3 is not installed.
        InputError: the key's variable is not set, or holds what is no key.
    """

    def __init__(self, endpoint: Endpoint, max_tokens: int) -> None:
        try:
            from urllib3 import connection, exceptions
        except ImportError:
            raise EdgersError("asking an endpoint needs urllib3: install edgers[judge]") from None
        url = urlsplit(endpoint.base_url)
        self._endpoint, self._max_tokens = endpoint, max_tokens
        self._host, self._port = url.hostname or "", url.port
        self._path = url.path.rstrip("/") + "/chat/completions"
        self._connection = connection.HTTPSConnection if url.scheme == "https" else connection.HTTPConnection
        self._errors = (exceptions.HTTPError, HTTPException, OSError)
        self._key = _key(endpoint.key_env)
        self._idle: deque[HTTPConnection] = deque()

    def complete(self, prompts: Sequence[str]) -> list[str | Failure]:
        """What the model says to each prompt, or why it said nothing."""
        with ThreadPoolExecutor(self._endpoint.parallel, "judge") as pool:
            try:
                return list(pool.map(self._ask, prompts))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # who interrupts waits for no more questions
                raise

    def _ask(self, prompt: str) -> str | Failure:
        deadline = time.monotonic() + self._endpoint.timeout_s
        for attempt in range(self._endpoint.attempts):
            try:
                return self._attempt(prompt, deadline)
            except _UnansweredError as error:
                reason, wait = self._without_key(str(error)), error.wait
            if wait is None or attempt + 1 == self._endpoint.attempts:
                break
            wait = max(wait, _FIRST_WAIT * 2 ** (attempt - 1) if attempt else 0)
            if wait >= deadline - time.monotonic():
                reason += f"; the next attempt would be later than after {self._endpoint.timeout_s:g} s"
                break
            time.sleep(wait)
        return Failure(reason)

    def _attempt(self, prompt: str, deadline: float) -> str:
        connection = self._connected(deadline)
        try:
            response, body = self._exchange(connection, prompt, deadline)
            said = _completion(response, body)
        except BaseException:
            connection.close()
            raise
        if response.isclosed():
            self._idle.append(connection)
        else:
            connection.close()
        return said

    def _connected(self, deadline: float) -> HTTPConnection:
        with suppress(IndexError):
            connection = self._idle.pop()
            if connection.is_connected:
                return connection
            connection.close()
        remaining = max(deadline - time.monotonic(), 1e-3)
        connection = self._connection(self._host, self._port, timeout=remaining)
        try:
            connection.connect()
        except self._errors as error:
            connection.close()
            raise self._broken(error) from None
        connection.timeout = None  # from here on the whole question has an end, not each read
        return connection

    def _exchange(
        self, connection: HTTPConnection, prompt: str, deadline: float
    ) -> tuple[HTTPResponse, bytes]:
        with _ended_at(deadline, connection) as ended:
            try:
                connection.request(
                    "POST", self._path, self._body(prompt), self._headers(), preload_content=False
                )
                response = connection.getresponse()
                body = response.read(MAX_RESPONSE + 1, decode_content=False)
                if len(body) <= MAX_RESPONSE:
                    response.read(1, decode_content=False)  # raises where fewer bytes came than announced
            except self._errors as error:
                if not ended.is_set():
                    raise self._broken(error) from None
        if ended.is_set():  # what was cut off there may look complete
            raise _UnansweredError(
                f"{self._host} gave no complete answer within {self._endpoint.timeout_s:g} s"
            )
        return response, body

    def _broken(self, error: BaseException) -> _UnansweredError:
        return _UnansweredError(f"{self._host} could not be asked: {error}", wait=0)

    def _body(self, prompt: str) -> bytes:
        asked = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._max_tokens,
            **FIXED,
        }
        return json.dumps(asked).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return headers if self._key is None else {**headers, "Authorization": f"Bearer {self._key}"}

    def _without_key(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key, "[the key]")


def ask_endpoint(asks: Endpoint, classes: Sequence[str]) -> tuple[object, Complete]:
    """What a judge's labels follow from, and who completes its prompts.

    Raises:
        EdgersError, InputError: see `Client`.
    """
    follows_from = {"base_url": asks.base_url.rstrip("/"), "model": asks.model, **FIXED}
    return follows_from, Client(asks, longest_reply(classes)).complete


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise InputError(f"the judge's key is expected in the environment variable {variable}: set it")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(f"the environment variable {variable} holds blanks or control characters: no key")
    return key


def _completion(response: HTTPResponse, body: bytes) -> str:
    """The message of a response, read strictly."""
    if response.status != 200:
        wait = _wait(response) if response.status in _RETRIED else None
        hint = _HINTS.get(response.status, "")
        raise _UnansweredError(f"the server answered with status {response.status}{hint}", wait)
    if len(body) > MAX_RESPONSE:
        raise _UnansweredError(f"the server's answer has more than {MAX_RESPONSE} bytes")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _UnansweredError("the server's answer is not application/json")
    try:
        return parse(body, _Completion).choices[0].message.content
    except ValueError as error:
        raise _UnansweredError(f"the server's answer is no completion: {error}") from None


def _wait(response: HTTPResponse) -> float:
    """Seconds that the server asks to wait, as a number; its dates are of a clock that may be wrong."""
    asked = response.headers.get("Retry-After", "").strip()
    return float(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0.0


@contextmanager
def _ended_at(deadline: float, connection: HTTPConnection) -> Iterator[threading.Event]:
    """Shut the connection down at the deadline, and say so: a socket's timeout begins anew with each byte."""
    ended = threading.Event()
    timer = threading.Timer(max(deadline - time.monotonic(), 0), _end, [connection.sock, ended])
    timer.daemon = True
    timer.start()
    try:
        yield ended
    finally:
        timer.cancel()
        timer.join()  # or it might shut the next question's


def _end(line: socket.socket, ended: threading.Event) -> None:
    ended.set()
    with suppress(OSError):
        # Not the method of a TLS socket, which would take its session away from the thread that reads.
        socket.socket.shutdown(line, socket.SHUT_RDWR)
