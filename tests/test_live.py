"""An answer while it comes: its text is told before it is whole, and what it means is decided when it is."""

import gzip
import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.errors import ErrorCode, GatewayError, RateLimited, Unwanted, UpstreamFailed
from gateway.messages import Completion, Request
from gateway.providers.gemini import Gemini
from gateway.providers.live import Listener, Live
from gateway.providers.openrouter import OpenRouter
from gateway.providers.openrouter_responses import classify_openrouter
from gateway.providers.responses import Answer
from gateway.providers.transport import Transport
from gateway.secrets import ApiKey
from tests.test_transport import AMPLE_S, Server

pytestmark = pytest.mark.timeout(120)

KEY = ApiKey("sk-or-v1-canary-key-0123456789")
REQUEST = Request(request_id="r-1", prompt="canary prompt", callback_queue="q", stream=True)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
COMMENT = b": OPENROUTER PROCESSING\n\n"


def openrouter(text: str | None, ending: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": ending}
    return b"data: " + json.dumps({"id": "gen-1", "model": "m/m", "choices": [choice], **more}).encode() + b"\n\n"


def gemini(text: str, ending: str | None = None) -> bytes:
    candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": ending, "index": 0}
    usage = {"promptTokenCount": 2, "candidatesTokenCount": 3, "totalTokenCount": 5}
    content = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-x"}
    return b"data: " + json.dumps(content).encode() + b"\r\n\r\n"


USAGE = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "cost": 0.5}
END = openrouter("", "stop") + openrouter("", "stop", usage=USAGE) + b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Heard:
    """What was told so far; `arrived` is set with each piece."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.arrived = threading.Event()
        self.listener = Listener(self.hear)

    def hear(self, text: str) -> None:
        self.texts.append(text)
        self.arrived.set()

    def wait(self) -> None:
        assert self.arrived.wait(60), "nothing was heard while the provider still held the rest back"
        self.arrived.clear()


@pytest.fixture
def ask() -> Iterator[Callable[..., Completion]]:
    """Asks a server of the test's own, which answers with what `behave` writes."""
    with ExitStack() as stack:
        transport = Transport(max_body_bytes=100_000)
        stack.callback(transport.close)

        def ask(
            behave: Callable[[socket.socket], None], heard: Heard, *, gemini: bool = False, deadline_s: float = AMPLE_S
        ) -> Completion:
            def serve(server: Server, connection: socket.socket) -> None:
                server.read(connection)
                behave(connection)

            server = Server(serve)
            stack.callback(server.stop)
            ask.server = server  # type: ignore[attr-defined]
            url = f"http://{server.address}"
            provider = (
                Gemini(transport, url, "gemini-x")
                if gemini
                else OpenRouter(transport, url, "m/m", {}, site_url="", site_name="", max_tokens=99)
            )
            return provider.complete(REQUEST, KEY, deadline_s=deadline_s, listener=heard.listener)

        yield ask


def failure(call: Callable[[], Completion]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        call()
    return caught.value


def test_each_piece_is_told_while_the_rest_is_held_back(ask):
    """The order of events shows it: the server goes on when it was heard, and not before."""
    heard = Heard()

    def behave(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(COMMENT))
        for text in ("Hel", "lo", "."):
            connection.sendall(chunk(openrouter(text)))
            heard.wait()
        connection.sendall(chunk(END) + b"0\r\n\r\n")

    completion = ask(behave, heard)
    assert heard.texts == ["Hel", "lo", "."]
    assert (completion.content, completion.finish_reason, completion.generation_id) == ("Hello.", "stop", "gen-1")
    assert (completion.usage.total_tokens, completion.usage.cost) == (5, 0.5)
    sent = ask.server.requests[0]
    assert json.loads(sent.partition(b"\r\n\r\n")[2]) | {"stream": True, "stream_options": {"include_usage": True}} == (
        json.loads(sent.partition(b"\r\n\r\n")[2])
    )
    assert b"Accept: text/event-stream, application/json\r\n" in sent


def test_each_piece_of_gemini_is_told_while_the_rest_is_held_back(ask):
    """Asked for events; its stream has no mark at its end but the reason why the model has stopped."""
    heard = Heard()

    def behave(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Connection: close\r\n\r\n" + gemini("Hel"))
        heard.wait()
        connection.sendall(gemini("lo."))
        heard.wait()
        connection.sendall(gemini("", "STOP"))

    completion = ask(behave, heard, gemini=True)
    assert (heard.texts, completion.content) == (["Hel", "lo."], "Hello.")
    assert (completion.usage.total_tokens, completion.model_used) == (5, "gemini-x")
    assert ask.server.requests[0].startswith(b"POST /v1beta/models/gemini-x:streamGenerateContent?alt=sse HTTP/1.1")


def test_a_piece_in_parts_is_told_when_it_is_whole(ask):
    """Cut anywhere, in the middle of a character too; several that come together are one."""
    heard, wire = Heard(), COMMENT + openrouter("Grüße") + openrouter(" an") + openrouter(" alle") + END

    def behave(connection: socket.socket) -> None:
        connection.sendall(HEAD + f"Content-Length: {len(wire)}\r\n\r\n".encode())
        for at in range(len(wire)):
            connection.sendall(wire[at : at + 1])

    assert ask(behave, heard).content == "Grüße an alle"
    assert "".join(heard.texts) == "Grüße an alle"


@pytest.mark.parametrize("body", [zlib.compressobj(wbits=31), zlib.compressobj()], ids=["gzip", "zlib"])
def test_what_a_proxy_has_compressed_is_told_as_it_comes(ask, body):
    """Nobody has asked it to; the bytes tell, whatever the header says."""
    heard = Heard()

    def behave(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        connection.sendall(chunk(body.compress(openrouter("Hel")) + body.flush(zlib.Z_SYNC_FLUSH)))
        heard.wait()
        connection.sendall(chunk(body.compress(openrouter("lo.") + END) + body.flush()) + b"0\r\n\r\n")

    assert ask(behave, heard).content == "Hello."
    assert heard.texts == ["Hel", "lo."]


ENDS = {
    "between two pieces": (CHUNKED + chunk(openrouter("Hel")) + b"0\r\n\r\n", "broken_answer"),
    "between two pieces, without a length": (HEAD + b"\r\n" + openrouter("Hel") + openrouter("lo"), "broken_answer"),
    "within a piece": (CHUNKED + chunk(openrouter("Hel") + openrouter("lo")[:20]) + b"0\r\n\r\n", "broken_answer"),
    "before its first word": (CHUNKED + chunk(openrouter("")) + b"0\r\n\r\n", "empty_answer"),
    "with its connection": (CHUNKED + chunk(openrouter("Hel")), "network"),
    "with its connection, within a piece": (CHUNKED + b"fff\r\n" + openrouter("Hel")[:30], "network"),
    "with its connection, short of its length": (HEAD + b"Content-Length: 999\r\n\r\n" + openrouter("Hel"), "network"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_that_stops_in_the_middle_is_an_upstream_fault(ask, end):
    """Half an answer is none, whatever was heard of it."""
    wire, reason = ENDS[end]
    error = failure(lambda: ask(lambda connection: connection.sendall(wire), Heard()))
    assert (type(error), error.reason, error.may_be_billed) == (UpstreamFailed, reason, True)


def test_an_error_in_the_stream_is_judged_as_one_in_an_answer(ask):
    """After a 200, and after half a text."""
    fault = {"code": 502, "message": "Provider disconnected", "metadata": {"provider_name": "Google"}}
    wire = CHUNKED + chunk(openrouter("Hel") + openrouter("", "error", error=fault)) + b"0\r\n\r\n"
    heard = Heard()
    error = failure(lambda: ask(lambda connection: connection.sendall(wire), heard))
    assert (type(error), error.status, heard.texts, error.may_be_billed) == (UpstreamFailed, 502, ["Hel"], True)


def test_an_error_before_the_stream_is_judged_as_without_one(ask):
    """It is a document with a status."""
    body = json.dumps({"error": {"code": 429, "message": "Rate limit exceeded"}}).encode()
    wire = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    heard = Heard()
    error = failure(lambda: ask(lambda connection: connection.sendall(wire), heard))
    assert (type(error), error.retry_after_s, heard.texts, error.may_be_billed) == (RateLimited, 7.0, [], False)


@pytest.mark.parametrize("gemini", [False, True])
def test_a_provider_that_does_not_stream_is_heard_at_the_end(ask, gemini):
    """A document in place of the events is the answer all the same."""
    said = {"message": {"content": "Hello."}, "finish_reason": "stop"}
    candidate = {"content": {"parts": [{"text": "Hello."}]}, "finishReason": "STOP"}
    body = json.dumps({"candidates": [candidate]} if gemini else {"choices": [said]}, indent=1).encode()
    wire = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    heard = Heard()
    assert ask(lambda connection: connection.sendall(wire), heard, gemini=gemini).content == "Hello."
    assert heard.texts == []


def test_a_page_of_a_portal_and_a_redirect_are_no_streams(ask):
    """As without a stream."""
    page = b"<html>\ndata: {}\n</html>"
    portal = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    redirect = b"HTTP/1.1 307 Elsewhere\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n"
    reasons = [
        failure(lambda wire=wire: ask(lambda connection: connection.sendall(wire), Heard())).reason
        for wire in (portal, redirect)
    ]
    assert reasons == ["not_the_provider", "redirect"]


def test_a_stream_has_the_limits_of_any_body(ask):
    """A multiple of it, for each word has an event. Beyond, the call has failed; no more is told than may be read."""
    long = openrouter("x" * 1000) * 300
    assert len(ask(lambda connection: connection.sendall(HEAD + b"\r\n" + long + END), Heard()).content) == 300_000
    endless = openrouter("x" * 1000) * 400
    for wire in (HEAD + b"\r\n" + endless, HEAD + b"\r\n" + gzip.compress(endless)):
        heard = Heard()
        error = failure(lambda wire=wire: ask(lambda connection: connection.sendall(wire), heard))  # noqa: B023
        assert (type(error), error.reason) == (UpstreamFailed, "too_large")
        assert sum(map(len, heard.texts)) <= 400_000


def test_pieces_do_not_put_the_deadline_off(ask):
    """One wall-clock deadline for all of the stream."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        Server.drip(ask.server, connection, chunk(openrouter("x")))

    error = failure(lambda: ask(behave, Heard(), deadline_s=0.3))
    assert error.code is ErrorCode.TIMEOUT


@pytest.mark.parametrize("length", ["chunked", "none"])
def test_a_listener_may_end_the_call(ask, length):
    """From another thread, while the provider is silent; its connection is closed, and that is no fault of its."""
    heard = Heard()
    other = threading.Thread(target=lambda: (heard.wait(), heard.listener.end()))
    other.start()
    closed = threading.Event()

    def behave(connection: socket.socket) -> None:
        first = openrouter("Hel") + openrouter("", "stop")
        connection.sendall(CHUNKED + chunk(first) if length == "chunked" else HEAD + b"\r\n" + first)
        if not connection.recv(1):
            closed.set()

    error = failure(lambda: ask(behave, heard))
    assert (type(error), error.code, error.may_be_billed) == (Unwanted, ErrorCode.CANCELLED, True)
    assert closed.wait(60)
    other.join()


def test_who_was_ended_before_the_call_ends_it_at_its_start(ask):
    """The cancel came between the look and the call."""
    heard = Heard()
    heard.listener.end()
    error = failure(lambda: ask(lambda connection: connection.recv(1), heard))
    assert error.code is ErrorCode.CANCELLED


def test_a_fault_of_who_hears_does_not_cost_the_answer(ask, caplog):
    """It is told when it is whole; the log has the fault, and no text."""
    heard = Heard()

    def fail(_text: str) -> None:
        heard.texts.append("once")
        raise ValueError("a fault of ours")

    heard.listener.hear = fail
    wire = HEAD + b"\r\n" + openrouter("canary answer") + END
    assert ask(lambda connection: connection.sendall(wire), heard).content == "canary answer"
    assert heard.texts == ["once"]
    assert "a fault of ours" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b"data: {",
        b"data: " + b"[" * 50_000,
        b"\xff\xfe",
        b"event: x",
        b"data: [DONE]",
        b'{"choices": 7}',
        b"data: null",
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_line_that_cannot_be_read_is_passed_over(line):
    """What comes behind it is told."""
    texts: list[str] = []
    live = Live(Listener(texts.append), lambda event: event.get("text", ""))
    live.begin(limit=1_000_000)
    live.fed(b'data: {"text": "a"}\n' + line + b'\ndata: {"text": "b"}\n')
    assert texts == ["ab"]


def test_others_get_their_turns_while_a_long_stream_is_read(monkeypatch):
    """A worker on greenlets has one thread for all; the answer is judged when it is whole, event for event."""
    turns: list[float] = []
    monkeypatch.setattr("gateway.providers.values.time.sleep", turns.append)
    answer = Answer(200, {}, openrouter("x") * 2_000 + END)
    assert isinstance(classify_openrouter(answer, asked="m/m", now=0.0, hide=str), Completion)
    assert len(turns) >= 20
    assert set(turns) == {0}
