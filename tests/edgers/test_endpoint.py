"""The endpoint: one strict answer within a deadline, or a failure that says why, whatever the server does."""

import re
import ssl
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import msgspec
import pytest

from edgers.oracle import endpoint
from edgers.oracle.base import Failure
from edgers.oracle.definition import Endpoint
from edgers.oracle.endpoint import MAX_RESPONSE, Client, ask_endpoint
from edgers_engines.errors import EdgersError, InputError
from tests.edgers.judge_server import (
    Together,
    completion,
    decides,
    drips,
    holds,
    pours,
    prompts_of,
    says,
    sends,
    serving,
    writes,
)

QUICK = 0.2  # seconds, for a server that will not answer
KEY = "sk-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server():
    with serving(says("harmful")) as running:
        yield running


def asked_of(server, **fields):
    return Endpoint(**{"base_url": server.url, "model": "m", "timeout_s": 60, **fields})


def ask(server, prompt="Is it?", **fields):
    (reply,) = Client(asked_of(server, **fields), 16).complete([prompt])
    return reply


def failure(server, **fields):
    reply = ask(server, **fields)
    assert isinstance(reply, Failure), reply
    return reply.reason


# --- what is asked ------------------------------------------------------------------------------------------


def test_a_question_is_one_user_message_without_chance_in_it(server):
    assert ask(server, 'Is {this} "it"?\n\x00 ü', model="some/model") == "harmful"
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Content-Type"] == "application/json"
    assert "Authorization" not in asked.headers
    assert asked.body == {
        "model": "some/model",
        "messages": [{"role": "user", "content": 'Is {this} "it"?\n\x00 ü'}],
        "max_tokens": 16,
        "temperature": 0,
        "seed": 0,
        "stream": False,
    }


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_slash_at_the_end_of_the_address_changes_nothing(server, slash):
    assert ask(server, base_url=server.url + slash) == "harmful"
    assert server.asked[0].path == "/v1/chat/completions"
    follows_from, _ = ask_endpoint(asked_of(server, base_url=server.url + slash), ["a", "b"])
    assert follows_from == ask_endpoint(asked_of(server), ["a", "b"])[0]


def test_there_is_room_for_the_longest_class_in_bytes(server):
    _, complete = ask_endpoint(asked_of(server), ["no", "ü" * 20])
    complete(["?"])
    assert server.asked[0].body["max_tokens"] == 48


def test_answers_come_in_the_order_of_the_prompts(server):
    server.respond = decides(str.upper)
    prompts = [f"text {i}" for i in range(20)]
    assert Client(asked_of(server), 16).complete(prompts) == [prompt.upper() for prompt in prompts]
    assert sorted(prompts_of(server.asked)) == sorted(prompts)


@pytest.mark.parametrize("parallel", [1, 4])
def test_as_many_questions_are_under_way_as_the_definition_says(server, parallel):
    server.respond = together = Together(parallel)
    replies = Client(asked_of(server, parallel=parallel), 16).complete(["?"] * 4)
    assert (replies, together.most) == (["harmful"] * 4, parallel)
    assert len({asked.client for asked in server.asked}) == parallel


def test_a_connection_is_used_again(server):
    client = Client(asked_of(server), 16)
    assert [client.complete(["?"]) for _ in range(3)] == [["harmful"]] * 3
    assert len({asked.client for asked in server.asked}) == 1


def test_a_connection_that_the_server_closed_meanwhile_costs_no_attempt(server):
    def once(handler):
        handler.send(completion())
        handler.hang_up()

    server.respond = once
    client = Client(asked_of(server, attempts=1, timeout_s=60), 16)
    assert client.complete(["?"]) == ["harmful"]
    (idle,) = client._idle
    while idle.is_connected:  # until its end has arrived here
        pass
    assert client.complete(["?"]) == ["harmful"]


def test_a_question_leaves_no_thread_behind(server):
    client = Client(asked_of(server, attempts=2), 16)
    server.script = [says(), sends(b"", status=500), sends(b"", status=400)]
    assert len(client.complete(["?"] * 3)) == 3
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("judge")]


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(server, attempts=1) == "harmful"


# --- what comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("respond", "said"),
    [
        pytest.param(sends(completion()[:-5]), "no completion", id="truncated JSON"),
        pytest.param(sends(b"[" * 100_000), "nested too deeply", id="deep JSON"),
        pytest.param(sends(b"harmful"), "no completion", id="no JSON"),
        pytest.param(sends(b""), "no completion", id="nothing"),
        pytest.param(sends(b"[]"), "Expected `object`", id="a list"),
        pytest.param(
            sends(completion().replace(b'"id"', b'"choices": [], "choices"')), "twice", id="a key twice"
        ),
        pytest.param(sends(b'{"choices": []}'), r"length >= 1.*\$.choices", id="no choice"),
        pytest.param(
            sends(
                b'{"choices": [%b, %b]}' % ((b'{"message": {"content": "a"}, "finish_reason": "stop"}',) * 2)
            ),
            r"length <= 1.*\$.choices",
            id="two choices",
        ),
        pytest.param(sends(b'{"choices": [{"message": {"content": "a"}}]}'), "finish_reason", id="no reason"),
        pytest.param(says(None), r"Expected `str`, got `null` .*content", id="no content"),
        pytest.param(says(["harmful"]), "Expected `str`, got `array`", id="content of parts"),
        pytest.param(says(finish_reason="length"), "'length'", id="cut off"),
        pytest.param(says(finish_reason="content_filter"), "'content_filter'", id="filtered"),
        pytest.param(says(finish_reason=None), "finish_reason", id="not finished"),
        pytest.param(says("\ud800"), "not valid utf-8", id="a lone surrogate"),
        pytest.param(sends(completion().decode().encode("utf-16")), "utf-8", id="UTF-16"),
        pytest.param(sends(completion(), content_type="text/html"), "not application/json", id="HTML"),
        pytest.param(sends(completion(), content_type=None), "not application/json", id="no type"),
        pytest.param(sends(b" " * (MAX_RESPONSE + 1)), "more than 262144 bytes", id="too large"),
        pytest.param(pours(HEAD + b"Content-Length: 999999999999\r\n\r\n", 4), "more than 262144", id="huge"),
        pytest.param(pours(HEAD + b"\r\n", 4), "more than 262144", id="huge, of no length"),
        pytest.param(pours(CHUNKED + b"fffffff\r\n", 4), "more than 262144", id="huge, in chunks"),
        pytest.param(sends(completion(), status=204), "status 204", id="nothing to say"),
        pytest.param(sends(completion(), status=201), "status 201", id="created"),
        pytest.param(sends(b"{}", status=401), "status 401", id="no key"),
        pytest.param(sends(b"{}", status=404), "status 404", id="no such model"),
    ],
)
def test_what_is_no_completed_message_is_a_failure_and_is_not_asked_for_again(server, respond, said):
    server.respond = respond
    assert re.search(said, reason := failure(server)), reason
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server, status):
    with serving(says()) as other:
        server.respond = sends(b"", status=status, Location=f"{other.url}/chat/completions")
        assert failure(server) == f"the server answered with status {status}"
        assert (len(server.asked), other.asked) == (1, [])


BROKEN = {
    "500": sends(b"", status=500),
    "502": sends(b"", status=502),
    "503": sends(b"", status=503),
    "504": sends(b"", status=504),
    "429": sends(b"", status=429),
    "429, at once": sends(b"", status=429, Retry_After=0),
    "429, at a date": sends(b"", status=429, Retry_After="Fri, 31 Dec 2100 23:59:59 GMT"),
    "closes at once": writes(),
    "closes in the middle": writes(HEAD + b"Content-Length: 500\r\n\r\n" + completion()),
    "closes in a chunk": writes(CHUNKED + b"ff\r\n" + completion()),
    "no HTTP": writes(b"harmful\r\n\r\n"),
    "a head without end": writes(HEAD + b"X: " + b"a" * (1 << 17)),
    "a thousand headers": writes(HEAD + b"X: a\r\n" * 1000),
    "a chunk of no size": writes(CHUNKED + b"harmful\r\n"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_may_pass_is_asked_again_at_once(server, broken):
    server.script = [BROKEN[broken]]
    assert ask(server) == "harmful"
    assert len(server.asked) == 2


@pytest.mark.parametrize("broken", BROKEN)
def test_the_last_attempt_is_the_last(server, broken):
    server.respond = BROKEN[broken]
    assert "127.0.0.1 could not be asked" in (reason := failure(server, attempts=2)) or "status" in reason
    assert len(server.asked) == 2


def test_nobody_there_is_a_failure_that_says_so():
    with serving(says()) as gone:
        pass
    assert "Connection refused" in failure(gone, attempts=2)


# --- time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch):
    """Seconds that the client would have slept, in a time that goes on meanwhile."""
    slept = []
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + sum(slept), sleep=slept.append)
    monkeypatch.setattr(endpoint, "time", clock)
    return slept


def test_each_wait_is_twice_the_one_before_but_the_first_is_none(server, waits):
    server.respond = sends(b"", status=503)
    assert failure(server, attempts=5) == "the server answered with status 503"
    assert waits == [0, 0.5, 1, 2]


def test_a_server_may_ask_for_a_longer_wait(server, waits):
    server.script = [sends(b"", status=429, Retry_After=7)]
    assert ask(server) == "harmful"
    assert waits == [7]


@pytest.mark.parametrize("after", ["99999", "60", "9" * 9])
def test_a_wait_beyond_the_deadline_is_not_begun(server, waits, after):
    server.respond = sends(b"", status=429, Retry_After=after)
    assert "status 429; the next attempt would be later than after 60 s" in failure(server)
    assert (waits, len(server.asked)) == ([], 1)


@pytest.mark.parametrize("after", ["-1", "soon", "1e9", "9" * 400, "٣"])
def test_a_wait_that_is_no_number_of_seconds_is_none(server, waits, after):
    server.script = [sends(b"", status=429, Retry_After=after.encode().decode("latin-1"))]
    assert ask(server) == "harmful"
    assert waits == [0]


def test_waits_count_against_the_deadline(server, waits):
    server.respond = sends(b"", status=429, Retry_After=25)
    assert "later than after 60 s" in failure(server, attempts=10)
    assert waits == [25, 25]


LENGTH = b"Content-Length: 500\r\n\r\n"


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(holds(), id="it never answers"),
        pytest.param(holds(HEAD), id="it stops within the head"),
        pytest.param(holds(HEAD + LENGTH + completion()), id="it stops within the body"),
        pytest.param(holds(HEAD + b"\r\n" + completion()), id="it says everything, but no end of it"),
        pytest.param(drips(HEAD + b"Content-Length: 200000\r\n\r\n", b" "), id="the body drips"),
        pytest.param(drips(HEAD + b"\r\n" + completion(), b" "), id="blanks drip behind the answer"),
        pytest.param(drips(CHUNKED, b"1\r\n \r\n"), id="chunks drip"),
        pytest.param(drips(HEAD + b"X: ", b"a"), id="a header drips"),
        pytest.param(
            drips(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"), id="continue"
        ),
    ],
)
def test_who_has_not_answered_at_the_deadline_is_not_waited_for(server, respond):
    server.respond = respond
    reason = failure(server, timeout_s=QUICK)
    assert reason == "127.0.0.1 gave no complete answer within 0.2 s"
    assert len(server.asked) <= 1


def test_a_question_that_was_cut_off_does_not_disturb_the_next_one(server):
    server.script = [says(), holds(HEAD), says(), says()]
    client = Client(asked_of(server), 16)
    replies = client.complete(["?"])
    client._endpoint = asked_of(server, timeout_s=QUICK)
    replies += client.complete(["?"])
    client._endpoint = asked_of(server)
    replies += client.complete(["?"]) + client.complete(["?"])
    assert [reply == "harmful" for reply in replies] == [True, False, True, True]


# --- the key ------------------------------------------------------------------------------------------------


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return {"key_env": "JUDGE_KEY"}


def test_the_key_is_sent_as_a_bearer_token(server, key):
    assert ask(server, **key) == "harmful"
    assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "respond",
    [
        pytest.param(says(finish_reason=KEY), id="in a field"),
        pytest.param(sends(b'{"%b": 1, "%b": 2}' % ((KEY.encode(),) * 2)), id="as a key of JSON"),
        pytest.param(writes(KEY.encode() + b"\r\n\r\n"), id="as a status line"),
        pytest.param(writes(HEAD + b"Content-Length: " + KEY.encode() + b"\r\n\r\n"), id="as a length"),
        pytest.param(sends(b"", status=401, Location=KEY), id="in a header"),
        pytest.param(sends(KEY.encode(), status=401), id="in a body"),
    ],
)
def test_a_key_that_the_server_sends_back_is_shown_nowhere(server, key, respond):
    server.respond = respond
    reason = failure(server, attempts=2, **key)
    assert reason
    assert KEY not in reason


def test_what_the_labels_follow_from_says_nothing_of_the_key_or_of_patience(server, key):
    plain, _ = ask_endpoint(asked_of(server), ["a", "b"])
    other, _ = ask_endpoint(asked_of(server, timeout_s=1, attempts=9, parallel=9, **key), ["a", "b"])
    assert plain == other
    assert KEY not in str(other)
    for changed in ({"model": "n"}, {"base_url": server.url + "2"}):
        assert ask_endpoint(asked_of(server, **changed), ["a", "b"])[0] != plain


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "expected in the environment variable JUDGE_KEY"),
        ("", "expected in the environment variable JUDGE_KEY"),
        ("secret\r\nX: y", "blanks or control"),
        ("secret two", "blanks or control"),
        ("secret\x7f", "blanks or control"),
        ("sécret", "blanks or control"),
    ],
)
def test_a_key_that_is_none_is_refused_before_anything_is_sent(server, monkeypatch, value, said):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(InputError, match=said) as caught:
        Client(asked_of(server, key_env="JUDGE_KEY"), 16)
    assert "secret" not in str(caught.value)
    assert server.asked == []


# --- where it may be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base_url": "127.0.0.1:8000/v1"}, "http://HOST"),
        ({"base_url": "file:///etc/passwd"}, "http://HOST"),
        ({"base_url": "http://"}, "http://HOST"),
        ({"base_url": "http:///v1"}, "http://HOST"),
        ({"base_url": "http://me:secret@host/v1"}, "without a password"),
        ({"base_url": "http://host:port/v1"}, "port|Port"),
        ({"base_url": "http://host:99999/v1"}, "Port out of range"),
        ({"base_url": "http://host/v1?key=secret"}, "ends with its path"),
        ({"base_url": "http://host/v1#x"}, "ends with its path"),
        ({"base_url": "http://host/v1\r\nX: y"}, "base_url"),
        ({"base_url": "http://host/a b"}, "base_url"),
        ({"base_url": "http://hóst/"}, "base_url"),
        ({"base_url": "http://host.example/v1", "key_env": "K"}, "by https only"),
        ({"base_url": "http://localhost.example/v1", "key_env": "K"}, "by https only"),
        ({"key_env": "A KEY"}, "key_env"),
        ({"key_env": ""}, "key_env"),
        ({"model": ""}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 1e9}, "timeout_s"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": 1000}, "attempts"),
        ({"parallel": 0}, "parallel"),
        ({"parallel": 10_000}, "parallel"),
        ({"api_key": "secret"}, "api_key"),
    ],
)
def test_an_endpoint_that_cannot_be_asked_safely_is_refused(fields, said):
    with pytest.raises(msgspec.ValidationError, match=said) as caught:
        msgspec.convert({"kind": "endpoint", "base_url": "http://h/v1", "model": "m", **fields}, Endpoint)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    ["https://host.example/v1", "http://localhost:1/v1", "http://[::1]:8000/v1", "http://127.0.0.1"],
)
def test_a_key_goes_over_tls_or_stays_on_this_machine(base_url):
    fields = {"kind": "endpoint", "base_url": base_url, "model": "m", "key_env": "K"}
    assert msgspec.convert(fields, Endpoint).key_env == "K"


def test_without_urllib3_it_says_what_to_install(server, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "urllib3"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(EdgersError, match=r"needs urllib3: install edgers\[judge\]"):
        Client(asked_of(server), 16)


# --- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two self-signed certificates, each with its key in one file: of this machine, and of another name."""
    folder = tmp_path_factory.mktemp("tls")

    def make(name):
        target = folder / "made.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-nodes",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-keyout", target, "-out", folder / "cert.pem", "-days", "2", "-subj", "/CN=judge"),
                *("-addext", f"subjectAltName={name}"),
            ],
            check=True,
            capture_output=True,
        )
        both = folder / f"{name.replace(':', '-')}.pem"
        both.write_bytes(target.read_bytes() + (folder / "cert.pem").read_bytes())
        return both

    try:
        return make("IP:127.0.0.1"), make("DNS:other.example")
    except FileNotFoundError:
        pytest.skip("openssl is not installed, and nothing else here makes certificates")


@pytest.fixture
def tls(server):
    """Put the server behind TLS."""

    def behind(certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        return asked_of(server, base_url=f"https://127.0.0.1:{server.port}/v1", attempts=1)

    return behind


def test_a_certificate_that_nobody_vouches_for_is_refused(tls, certificates):
    (reply,) = Client(tls(certificates[0]), 16).complete(["?"])
    assert isinstance(reply, Failure)
    assert "CERTIFICATE_VERIFY_FAILED" in reply.reason


def test_a_certificate_of_another_host_is_refused(tls, certificates, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[1]))
    (reply,) = Client(tls(certificates[1]), 16).complete(["?"])
    assert isinstance(reply, Failure)
    assert "not valid for '127.0.0.1'" in reply.reason


def test_over_tls_the_answer_is_the_same_and_the_deadline_too(tls, certificates, server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[0]))
    client = Client(tls(certificates[0]), 16)
    assert client.complete(["?"]) == ["harmful"]
    server.respond = drips(HEAD + b"Content-Length: 200000\r\n\r\n", b" ")
    client._endpoint = msgspec.structs.replace(client._endpoint, timeout_s=QUICK)
    (reply,) = client.complete(["?"])
    assert reply == Failure("127.0.0.1 gave no complete answer within 0.2 s")
