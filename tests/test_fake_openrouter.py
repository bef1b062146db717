"""The stand-in provider: over HTTP as its callers see it, and on the wire where HTTP is what it breaks."""

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from email.message import Message
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from dev.waiting import wait_until
from fake_openrouter.client import FakeClient, running
from fake_openrouter.limits import Windows
from tests.clock import Clock

#: One process serves them all.
pytestmark = pytest.mark.xdist_group("fake_openrouter")

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("sk-or-v1-fake-key-1111", "sk-or-v1-fake-key-2222")
CHAT = "/api/v1/chat/completions"
GEMINI = "/v1beta/models/gemini-2.5-flash:generateContent"
PER_MINUTE = 3


class Got(NamedTuple):
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def choice(self) -> Any:
        return self.json["choices"][0]


@pytest.fixture(scope="module")
def process() -> Iterator[FakeClient]:
    with running(keys=KEYS, per_minute=PER_MINUTE) as client:
        yield client


@pytest.fixture
def fake(process: FakeClient) -> FakeClient:
    process.reset()
    return process


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def chat_body(prompt: str, model: str = "google/gemini-2.5-flash") -> bytes:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    return json.dumps({"model": model, "messages": messages}).encode()


def connect(fake: FakeClient, timeout_s: float = 60.0) -> HTTPConnection:
    return HTTPConnection(urlsplit(fake.base_url).netloc, timeout=timeout_s)


def begin(connection: HTTPConnection, prompt: str = "Hello") -> HTTPResponse:
    """Ask, and come back with the head of the answer."""
    connection.request("POST", CHAT, chat_body(prompt), {"Authorization": f"Bearer {KEYS[0]}"})
    return connection.getresponse()


def send(fake: FakeClient, method: str, path: str, body: bytes | None = None, **headers: str) -> Got:
    with closing(connect(fake)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Got(response.status, response.headers, response.read())


def ask(fake: FakeClient, prompt: str = "Hello", *, key: str = KEYS[0], model: str = "google/gemini-2.5-flash") -> Got:
    return send(fake, "POST", CHAT, chat_body(prompt, model), Authorization=f"Bearer {key}")


def ask_gemini(fake: FakeClient, prompt: str = "Hello", *, key: str = KEYS[0]) -> Got:
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": prompt}]}]}).encode()
    return send(fake, "POST", GEMINI, body, x_goog_api_key=key)


def test_an_answer_has_openrouters_form_and_comes_from_the_prompt(fake: FakeClient):
    """Text, usage with its cost, the model that served, a generation id; no limits are told on success."""
    got = ask(fake, "Name three rivers.", model="some/model")
    assert got.status == 200
    assert "Name three rivers." in got.choice["message"]["content"]
    assert got.choice["finish_reason"] == "stop"
    assert got.json["model"] == "some/model"
    assert got.headers["X-Generation-Id"] == got.json["id"]
    usage = got.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert usage["cost"] > 0
    assert not [name for name in got.headers if name.lower().startswith("x-ratelimit")]


@pytest.mark.parametrize("authorization", ["Bearer sk-or-v1-unknown", "Basic abc", ""])
def test_an_unknown_key_is_refused(fake: FakeClient, authorization: str):
    """In OpenRouter's form, and written down."""
    got = send(fake, "POST", CHAT, chat_body("Hello"), Authorization=authorization)
    assert (got.status, got.json["error"]["code"]) == (401, 401)
    assert [call["status"] for call in fake.calls()] == [401]
    assert fake.stats()["window_used"] == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"[]", b"[" * 100_000, b"{}", b'{"model": "m"}', b'{"model": "m", "messages": ["x"]}'],
    ids=lambda body: body[:20].decode(),
)
def test_a_bad_body_is_refused(fake: FakeClient, body: bytes):
    """400, and the window is not charged."""
    got = send(fake, "POST", CHAT, body, Authorization=f"Bearer {KEYS[0]}")
    assert (got.status, got.json["error"]["code"]) == (400, 400)
    assert fake.stats()["window_used"] == 0


def test_a_key_over_its_limit_is_told_when_to_come_back(fake: FakeClient):
    """The window is a key's own; the hints are where OpenRouter has them, the reset in epoch milliseconds."""
    assert [ask(fake).status for _ in range(PER_MINUTE)] == [200] * PER_MINUTE
    asked_at = time.time()
    got = ask(fake)
    assert got.status == got.json["error"]["code"] == 429
    wait_s = int(got.headers["Retry-After"])
    assert 0 < wait_s <= 60
    assert (got.headers["X-RateLimit-Limit"], got.headers["X-RateLimit-Remaining"]) == (str(PER_MINUTE), "0")
    assert asked_at <= int(got.headers["X-RateLimit-Reset"]) / 1000 <= time.time() + 61
    assert got.json["error"]["metadata"]["headers"]["X-RateLimit-Limit"] == str(PER_MINUTE)
    assert ask(fake, key=KEYS[1]).status == 200
    stats = fake.stats()
    assert (stats["limited"], stats["window_used"]) == (1, PER_MINUTE + 1)


def test_a_window_slides():
    """A place is free again when its call has left the window, not before."""
    windows = Windows(2, 60.0, clock := Clock(0.0))
    for now, wait_s in ((0.0, None), (10.0, None), (59.0, 1.0), (60.0, None), (61.0, 9.0), (70.0, None)):
        clock.now = now
        refusal = windows.admit("key")
        assert (refusal and refusal.wait_s) == wait_s


def test_any_key_will_do_when_none_are_named(tmp_path: Path):
    """For a demo and a benchmark; a call without one is still refused. Each answer takes the latency.

    Each call that is over is a line of the record, with what was asked and answered, and no key; a reset leaves it.
    """
    file = tmp_path / "calls.jsonl"
    with running(latency=0.1, record=file) as fake:
        began = time.monotonic()
        assert ask(fake, key="sk-whatever").status == 200
        assert time.monotonic() - began >= 0.1
        fake.reset()
        assert send(fake, "POST", CHAT, chat_body("Hello")).status == 401
    text = file.read_text()
    assert [json.loads(line)["status"] for line in text.splitlines()] == [200, 401]
    assert "sk-whatever" not in text


def test_gemini_answers_in_its_own_form(fake: FakeClient):
    """The model is in the path, the key in a header of its own."""
    got = ask_gemini(fake, "Name three rivers.")
    assert "Name three rivers." in got.json["candidates"][0]["content"]["parts"][0]["text"]
    assert got.json["candidates"][0]["finishReason"] == "STOP"
    assert got.json["modelVersion"] == "gemini-2.5-flash"
    usage = got.json["usageMetadata"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]
    (call,) = fake.calls()
    assert (call["model"], call["prompt"], call["key_last4"]) == ("gemini-2.5-flash", "Name three rivers.", "1111")


def test_gemini_lists_its_models_to_who_has_a_key(fake: FakeClient):
    """Free of charge, so it is no call; the only question about a key that Google answers."""
    for key, status in ((KEYS[0], 200), ("AIza-unknown", 400)):
        got = send(fake, "GET", "/v1beta/models?pageSize=1", x_goog_api_key=key)
        assert got.status == status
    assert fake.calls() == []


def test_a_body_may_be_bytes_that_are_no_text(fake: FakeClient):
    """A content encoding that nobody asked for."""
    fake.script([{"body_base64": "GwsA+I8=", "headers": {"Content-Encoding": "br"}}])
    got = ask(fake)
    assert (got.status, got.body, got.headers["Content-Encoding"]) == (200, b"\x1b\x0b\x00\xf8\x8f", "br")


def test_gemini_refuses_in_its_own_form(fake: FakeClient):
    """An unknown key is a bad argument; a limit has its wait in the details and no header."""
    unknown = ask_gemini(fake, key="AIza-unknown")
    assert unknown.status == 400
    assert unknown.json["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert [ask_gemini(fake).status for _ in range(PER_MINUTE)] == [200] * PER_MINUTE
    limited = ask_gemini(fake)
    assert (limited.status, limited.json["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    (wait,) = (each for each in limited.json["error"]["details"] if each["@type"].endswith("RetryInfo"))
    assert 0 < int(wait["retryDelay"].removesuffix("s")) <= 60
    assert "Retry-After" not in limited.headers


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 408, 429, 500, 502, 503, 524, 529])
def test_a_status_comes_with_openrouters_error(fake: FakeClient, status: int):
    """The code in the body is the status; nothing in it blames a provider."""
    fake.script([{"status": status, "headers": {"Retry-After": "7"}}])
    got = ask(fake)
    assert got.status == got.json["error"]["code"] == status
    assert got.json["error"]["metadata"] is None
    assert got.headers["Retry-After"] == "7"


def test_a_rule_can_bring_its_own_body(fake: FakeClient):
    """JSON, or text as it is."""
    fake.script([{"status": 403, "body": {"error": {"code": 403}}, "times": 1}, {"body": "<html>"}])
    first, second = ask(fake), ask(fake)
    assert (first.status, first.json) == (403, {"error": {"code": 403}})
    assert (second.status, second.body) == (200, b"<html>")


@pytest.mark.parametrize(
    ("match", "hit", "miss"),
    [
        ({"key": "1111"}, {"key": KEYS[0]}, {"key": KEYS[1]}),
        ({"model": "a/b"}, {"model": "a/b"}, {"model": "a/bc"}),
        ({"prompt": "rivers"}, {"prompt": "Three rivers"}, {"prompt": "Three lakes"}),
    ],
    ids=["key", "model", "prompt"],
)
def test_a_rule_is_for_the_calls_that_match(
    fake: FakeClient, match: dict[str, str], hit: dict[str, str], miss: dict[str, str]
):
    """By the end of the key, the model, a part of the prompt."""
    fake.script([{**match, "status": 503}])
    assert (ask(fake, **hit).status, ask(fake, **miss).status) == (503, 200)


def test_a_rule_is_used_up_and_the_next_one_comes(fake: FakeClient):
    """The first that applies and has uses left; after all of them an ordinary answer."""
    fake.script([{"status": 500, "times": 1}, {"status": 503, "times": 1}])
    assert [ask(fake).status for _ in range(3)] == [500, 503, 200]


@pytest.mark.parametrize("rule", [{"staus": 500}, {"status": "500"}, {"times": -1}, {"drip": {"where": "body"}}, 7])
def test_a_wrong_rule_is_refused_and_changes_nothing(fake: FakeClient, rule: Any):
    """A misspelt rule must not let a test pass for the wrong reason."""
    fake.script([{"status": 503}])
    with pytest.raises(ValueError, match="400"):
        fake.script([rule])
    assert ask(fake).status == 503


def test_an_error_can_hide_in_a_200(fake: FakeClient):
    """At the top without choices, or in the choice with part of a text."""
    fake.script([{"error_in_200": "top", "times": 1}, {"error_in_200": "choice", "status": 429}])
    top, choice = ask(fake), ask(fake)
    assert (top.status, top.json["error"]["code"], "choices" in top.json) == (200, 502, False)
    assert (choice.status, choice.choice["finish_reason"], choice.choice["error"]["code"]) == (200, "error", 429)


def test_an_answer_can_be_spoilt(fake: FakeClient):
    """No choices; no content; another reason to finish."""
    fake.script([{"empty_choices": True, "times": 1}, {"null_content": True, "finish_reason": "length"}])
    assert ask(fake).json["choices"] == []
    choice = ask(fake).choice
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")


def test_a_body_can_be_no_json(fake: FakeClient):
    """Although it says so."""
    fake.script([{"invalid_json": True}])
    got = ask(fake)
    assert (got.status, got.headers["Content-Type"]) == (200, "application/json")
    with pytest.raises(ValueError, match="Expecting"):
        got.json  # noqa: B018  (reading it is the test)


def test_an_answer_can_be_huge(fake: FakeClient):
    """The whole of it arrives, whatever the size of its parts on the way."""
    fake.script([{"huge": 3_000_000}])
    assert len(ask(fake).choice["message"]["content"]) == 3_000_000


def test_a_redirect_names_where_to_go(fake: FakeClient):
    """With a status that would send the body, and the key, once more."""
    fake.script([{"redirect": "http://127.0.0.1:9/elsewhere"}])
    got = ask(fake)
    assert (got.status, got.headers["Location"]) == (307, "http://127.0.0.1:9/elsewhere")


def test_a_delay_is_kept(fake: FakeClient):
    """Then the ordinary answer."""
    fake.script([{"delay_s": 0.2}])
    began = time.monotonic()
    assert ask(fake).status == 200
    assert time.monotonic() - began >= 0.2


def test_a_gate_holds_calls_until_it_is_opened(fake: FakeClient, pool: ThreadPoolExecutor):
    """The calls are in flight meanwhile, without a status; an open gate stays open."""
    fake.script([{"gate": "a gate/1"}])
    held: list[Future[Got]] = [pool.submit(ask, fake, f"Question {n}") for n in range(2)]
    calls = fake.wait_for_calls(2)
    assert {(call["status"], call["ended"]) for call in calls} == {(None, None)}
    assert fake.stats()["in_flight"] == 2
    fake.open_gate("a gate/1")
    assert [each.result(60).status for each in held] == [200, 200]
    assert ask(fake).status == 200
    stats = fake.stats()
    assert (stats["in_flight"], stats["max_in_flight"]) == (0, 2)


def test_a_reset_lets_go_and_forgets(fake: FakeClient, pool: ThreadPoolExecutor):
    """Rules, windows, gates and the record; a call that was held does not come back into the record."""
    fake.script([{"gate": "held"}])
    fake.open_gate("other")
    held = pool.submit(ask, fake)
    fake.wait_for_calls(1)
    fake.reset()
    assert held.result(60).status == 200
    assert fake.calls() == []
    stats = fake.stats()
    assert not any(stats.values()), stats
    fake.script([{"gate": "other"}])
    with closing(connect(fake, timeout_s=0.2)) as connection, pytest.raises(TimeoutError):
        begin(connection)


def test_a_hang_lasts_until_the_caller_leaves(fake: FakeClient):
    """Nothing comes; the record then says that the call was given up."""
    fake.script([{"hang": True}])
    with closing(connect(fake)) as connection:
        connection.request("POST", CHAT, chat_body("Hello"), {"Authorization": f"Bearer {KEYS[0]}"})
        (call,) = fake.wait_for_calls(1)
        assert call["ended"] is None
    call = ended(fake)
    assert (call["aborted"], call["status"]) == (True, None)


def test_a_release_ends_a_hang(fake: FakeClient, pool: ThreadPoolExecutor):
    """Who hangs gets the whole answer then; who comes later hangs again."""
    fake.script([{"hang": True}])
    held = pool.submit(ask, fake)
    fake.wait_for_calls(1)
    fake.release()
    assert held.result(60).status == 200
    with closing(connect(fake, timeout_s=0.2)) as connection, pytest.raises(TimeoutError):
        begin(connection)


def test_white_space_keeps_coming(fake: FakeClient):
    """For ever: every read succeeds in time, and there is never an end."""
    fake.script([{"whitespace": True}])
    with closing(connect(fake)) as connection:
        response = begin(connection)
        assert [response.read(1) for _ in range(4)] == [b" "] * 4
        assert fake.stats()["in_flight"] == 1
    assert ended(fake)["aborted"]


def test_white_space_can_end_in_an_answer(fake: FakeClient, pool: ThreadPoolExecutor):
    """With a gate, or a delay, as its end."""
    fake.script([{"whitespace": True, "gate": "thinking"}])
    answer = pool.submit(ask, fake)
    fake.wait_for_calls(1)
    fake.open_gate("thinking")
    got = answer.result(60)
    assert got.body.startswith(b" ")
    assert got.choice["finish_reason"] == "stop"


def test_a_cut_answer_announces_more_than_it_sends(fake: FakeClient):
    """The connection is closed in mid-body."""
    fake.script([{"cut": 20}])
    with closing(connect(fake)) as connection:
        response = begin(connection)
        with pytest.raises(IncompleteRead) as caught:
            response.read()
    assert len(caught.value.partial) == 20
    (call,) = fake.calls()
    assert (call["status"], call["aborted"]) == (200, False)


def test_a_body_can_drip(fake: FakeClient):
    """Its head at once, its bytes one by one, and complete in the end."""
    fake.script([{"drip": {"interval_s": 0.02}, "body": {"a": 1}}])
    began = time.monotonic()
    got = ask(fake)
    assert got.json == {"a": 1}
    assert time.monotonic() - began >= 0.02 * (len(got.body) - 1)


def test_headers_can_drip(fake: FakeClient):
    """Not even the status line comes at once; what comes is an answer in the end."""
    fake.script([{"drip": {"interval_s": 0.002, "where": "headers"}, "status": 503, "body": "no"}])
    began = time.monotonic()
    address = urlsplit(fake.base_url)
    body = chat_body("Hello")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS[0]}\r\nContent-Length: {len(body)}\r\n\r\n"
    with closing(socket.create_connection((address.hostname, address.port), timeout=60)) as caller:
        caller.sendall(head.encode() + body)
        got = b"".join(iter(lambda: caller.recv(4096), b""))
    assert time.monotonic() - began >= 0.002 * (len(got) - 1)
    assert got.startswith(b"HTTP/1.1 503 ")
    assert got.endswith(b"\r\n\r\nno")


def test_a_call_is_written_down_without_its_key(fake: FakeClient):
    """What was asked, by whom as a tail and a digest, and when; the key itself is nowhere."""
    ask(fake, "First")
    send(fake, "POST", CHAT, chat_body("Second"), Authorization=f"Bearer {KEYS[1]}", X_Title="A title")
    first, second = fake.calls()
    assert (first["prompt"], second["prompt"]) == ("First", "Second")
    assert second["body"] == json.loads(chat_body("Second"))
    assert (second["path"], second["model"], second["status"]) == (CHAT, "google/gemini-2.5-flash", 200)
    assert second["key_last4"] == KEYS[1][-4:]
    assert second["key_digest"] == hashlib.sha256(KEYS[1].encode()).hexdigest()[:16]
    assert second["headers"]["x-title"] == "A title"
    assert first["time"] <= first["ended"] <= second["time"] <= second["ended"]
    assert not any(key in json.dumps([first, second]) for key in KEYS)
    assert fake.calls(since=1) == [second]
    assert fake.stats()["per_key"] == {"1111": 1, "2222": 1}


def test_waiting_for_calls_ends_when_they_have_come_or_the_time_is_up(fake: FakeClient, pool: ThreadPoolExecutor):
    """No polling: the stand-in answers when the last of them has arrived."""
    waiting = pool.submit(fake.wait_for_calls, 2)
    ask(fake, "First")
    assert not waiting.done()
    ask(fake, "Second")
    assert [call["prompt"] for call in waiting.result(60)] == ["First", "Second"]
    with pytest.raises(TimeoutError, match="2 of 3 calls"):
        fake.wait_for_calls(3, timeout_s=0.1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_signal_ends_it_promptly_even_in_mid_call(tmp_path: Path, signum: signal.Signals):
    """Exit code 0, nothing on stderr; the port file is there before the line that names the address."""
    command = [sys.executable, "-m", "fake_openrouter", "--keys", KEYS[0], "--port-file", str(tmp_path / "port")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = (server.stdout.readline() if server.stdout else "").rpartition(":")[2].strip()
            assert (tmp_path / "port").read_text() == port
            fake = FakeClient(f"http://127.0.0.1:{port}")
            fake.script([{"hang": True}])
            with closing(connect(fake)) as connection:
                connection.request("POST", CHAT, chat_body("Hello"), {"Authorization": f"Bearer {KEYS[0]}"})
                fake.wait_for_calls(1)
                server.send_signal(signum)
                _output, errors = server.communicate(timeout=60)
        finally:
            server.kill()
    assert (server.returncode, errors) == (0, "")


def test_it_ends_with_whoever_started_it():
    """A test that is killed leaves no stand-in behind."""
    command = [sys.executable, "-m", "fake_openrouter", "--until-stdin-closes"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline().startswith("fake OpenRouter on http://127.0.0.1:")
            server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0


def test_a_stand_in_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch):
    """Nobody waits for a process that has ended."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with 1"), running():
        pass


def ended(fake: FakeClient) -> dict[str, Any]:
    """The only call, once it is over."""
    wait_until(lambda: fake.calls()[0]["ended"], what="the end of the call")
    return fake.calls()[0]
