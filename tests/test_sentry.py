"""Sentry: what arrives at a server that takes envelopes, and what never does."""

import gzip
import json
import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sentry_sdk
from pydantic import SecretStr
from sentry_sdk.transport import HttpTransport
from urllib3.exceptions import ProtocolError

from gateway.errors import (
    AuthenticationFailed,
    ErrorCode,
    GatewayError,
    KeysUnavailable,
    RequestRejected,
    StoreUnavailable,
    UpstreamFailed,
)
from gateway.reporting import sentry, tracing
from gateway.reporting.tracing import Messaging
from gateway.settings import Settings
from tests.test_responses import SAMPLES, classify, load

KEY = "sk-or-v1-canary-key-1111"
PASSWORD = "canary/password"
PROMPT = "canary-prompt: tell me about queues"

#: Of an event, on its way to the stand-in.
TRIES = 4


class Server:
    """Takes Sentry's envelopes over HTTP and keeps them."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.auth: list[str] = []
        self.mistakes: list[str] = []
        self.story: list[str] = []  # the stand-in's side of it
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # one connection for all events, as at Sentry

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                encoded = self.headers.get("Content-Encoding") == "gzip"
                outer.bodies.append(gzip.decompress(body) if encoded else body)
                outer.auth.append(self.headers["X-Sentry-Auth"])
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def handle(self) -> None:
                super().handle()
                line = self.raw_requestline[:40]
                outer.story.append(
                    f"{self.client_address} ended after {line!r}, timeout {self.connection.gettimeout()}"
                )

            def log_message(self, form: str, *args: object) -> None:
                outer.story.append(form % args)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def note_mistake(self, exc_info: Any) -> None:
        """The SDK keeps its own exceptions to itself, and loses the event over them."""
        self.mistakes.append("".join(traceback.format_exception(*exc_info)))

    def note_drop(self, reason: str) -> None:
        self.mistakes.append(f"dropped: {reason}")

    @property
    def dsn(self) -> str:
        return f"http://canarydsn@127.0.0.1:{self._http.server_address[1]}/1"

    @property
    def text(self) -> str:
        """Everything that has arrived, after what was waiting has been sent."""
        sentry.close(timeout_s=60.0)
        assert not self.mistakes, "\n".join([*self.mistakes, *self.story])
        return b"\n".join(self.bodies).decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        items = [json.loads(line) for line in self.text.splitlines() if line]
        return [item for item in items if "platform" in item]

    @property
    def event(self) -> dict[str, Any]:
        (event,) = self.events
        return event

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def patient(request: Callable[..., Any]) -> Callable[..., Any]:
    """Sends again what the stand-in has hung up on: in a process as busy as this one it does so once in a while."""

    def sent(*args: Any) -> Any:
        for _ in range(TRIES - 1):
            with suppress(ProtocolError):
                return request(*args)
        return request(*args)

    return sent


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server; whatever a test configures ends with it."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    server = Server()
    monkeypatch.setattr("sentry_sdk.utils.capture_internal_exception", server.note_mistake)
    monkeypatch.setattr("sentry_sdk.transport.HttpTransport.on_dropped_event", server.note_drop)
    monkeypatch.setattr(HttpTransport, "_request", patient(HttpTransport._request))
    yield server
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    sentry_sdk.get_global_scope().clear()
    sentry_sdk.get_isolation_scope().clear()
    server.stop()


def settings_for(server: Server, **fields: Any) -> Settings:
    return Settings(
        _env_file=None,
        openrouter_api_keys=KEY,
        RABBITMQ_URL="amqp://user:canary%2Fpassword@host/",
        sentry_dsn=SecretStr(server.dsn),
        **fields,
    )


@pytest.fixture
def configured(server: Server) -> Server:
    sentry.configure(settings_for(server, sentry_traces_sample_rate=1.0, sentry_environment="staging"))
    return server


def rejected(model: str) -> RequestRejected:
    return RequestRejected(f"OpenRouter answered 404: no {model}", reason="http_404", code=ErrorCode.MODEL_NOT_FOUND)


def fail(*, prompt: str, key: str) -> None:
    """A bug with everything in reach: in variables, in its text, in what caused it, in notes."""
    try:
        int(prompt)
    except ValueError as error:
        mistake = KeyError(prompt, key)
        mistake.add_note(prompt)
        raise mistake from error


def failure() -> BaseException:
    try:
        fail(prompt=PROMPT, key=KEY)
    except KeyError as error:
        return error
    raise AssertionError


# Off


def test_without_a_dsn_nothing_happens(server: Server):
    """Every function can be called all the same."""
    sentry.configure(Settings(_env_file=None, openrouter_api_keys=KEY, sentry_dsn=None))
    sentry.capture_failure(UpstreamFailed("gone", reason="network"), request_id="r-1", model=None)
    sentry.tell_operator("key_refused", "gone")
    sentry.close(timeout_s=0.1)
    assert server.bodies == []


# What is sent


def test_a_final_failure_is_one_event_that_can_be_found(configured: Server):
    """By request, code and model; in its environment."""
    error = UpstreamFailed("OpenRouter answered 503", reason="http_503")
    sentry.capture_failure(error, request_id="r-1", model="google/x", cause=error)
    event = configured.event
    assert event["message"] == "Request failed: OpenRouter answered 503"
    assert event["tags"] == {"request_id": "r-1", "error_code": "upstream", "reason": "http_503", "model": "google/x"}
    assert (event["environment"], event["level"]) == ("staging", "error")


def test_failures_of_one_kind_are_one_issue(configured: Server):
    """Code, reason and model make the kind; request and text do not."""
    for number, (reason, model) in enumerate(
        [("http_503", "a"), ("http_503", "a"), ("network", "a"), ("network", "b")]
    ):
        error = UpstreamFailed(f"text {number}", reason=reason)
        sentry.capture_failure(error, request_id=f"r-{number}", model=model, cause=error)
    assert [event["fingerprint"] for event in configured.events] == [
        ["upstream", "http_503", "a"],
        ["upstream", "http_503", "a"],
        ["upstream", "network", "a"],
        ["upstream", "network", "b"],
    ]


def test_a_bug_is_sent_with_its_stack(configured: Server):
    """Types and places of the whole chain, which is what one mends it with."""
    sentry.capture_failure(GatewayError("Internal error"), request_id="r-1", model=None, cause=failure())
    links = configured.event["exception"]["values"]
    assert [link["type"] for link in links] == ["ValueError", "KeyError"]
    assert [frame["function"] for frame in links[-1]["stacktrace"]["frames"]] == ["failure", "fail"]


def test_the_text_of_a_telling_exception_is_sent(configured: Server):
    """Where it is known to hold no values."""
    sentry.capture_failure(GatewayError("Internal error"), request_id="r-1", model=None, cause=OSError(28, "disk full"))
    assert configured.event["exception"]["values"][-1]["value"] == "[Errno 28] disk full"


def test_a_model_that_does_not_exist_is_one_event_an_hour(configured: Server):
    """Not one for each message that asks for it."""
    for number in range(5):
        for model in ("a/one", "a/two"):
            error = rejected(model)
            sentry.capture_failure(error, request_id=f"r-{number}", model=model, cause=error)
    assert [event["tags"]["model"] for event in configured.events] == ["a/one", "a/two"]


@pytest.mark.parametrize("sample", ["openrouter/400_model_id", "openrouter/404_data_policy", "gemini/400_location"])
def test_what_only_a_person_can_mend_is_one_event_an_hour(configured: Server, sample: str):
    """A model that is unknown or not allowed, a place that is not served: every request for it fails."""
    error = classify(sample.partition("/")[0], load(SAMPLES / f"{sample}.json")[0])
    for number in range(5):
        sentry.capture_failure(error, request_id=f"r-{number}", model="a/one", cause=error)
    assert len(configured.events) == 1


def test_refused_keys_are_one_event_an_hour(configured: Server):
    """Every request fails until somebody pays."""
    error = KeysUnavailable("Authentication error: no key is accepted", retry_in_s=60, refused=True)
    for number in range(5):
        sentry.capture_failure(error, request_id=f"r-{number}", model="a/one", cause=error)
    assert len(configured.events) == 1


def test_an_operator_is_told_once_about_each_thing(configured: Server):
    """A key that is refused, by its masked form."""
    error = AuthenticationFailed("OpenRouter answered 401", reason="http_401")
    for about in ("****1111", "****2222", "****1111"):
        sentry.tell_operator(error.reason, f"key refused: {error}", about=about)
    assert [event["message"] for event in configured.events] == [
        "http_401: key refused: OpenRouter answered 401 (****1111)",
        "http_401: key refused: OpenRouter answered 401 (****2222)",
    ]
    assert configured.events[0]["level"] == "warning"


def test_the_same_passes_again_after_its_time():
    """An hour later it is worth another event."""
    now = [0.0]
    once = sentry.Once(3600, clock=lambda: now[0])
    assert [once.first("a"), once.first("a"), once.first("b")] == [True, False, True]
    now[0] = 3599.0
    assert not once.first("a")
    now[0] = 3600.0
    assert once.first("a")


def test_what_has_passed_is_remembered_in_bounded_space():
    """Producers choose the names of queues."""
    once = sentry.Once(3600, clock=lambda: 0.0)
    assert all(once.first(number) for number in range(5000))
    assert len(once._passed) <= 1000
    assert not once.first(4999)


def test_what_ends_a_thread_is_sent(configured: Server):
    """And then reported as before."""
    seen: list[str] = []
    threading.excepthook = sentry._after_capture_in_thread(lambda args: seen.append(args.exc_type.__name__))
    thread = threading.Thread(target=int, args=(PROMPT,))
    thread.start()
    thread.join()
    assert configured.event["exception"]["values"][0]["type"] == "ValueError"
    assert seen == ["ValueError"]


def test_what_ends_the_process_is_sent(server: Server):
    """Before it is gone: it waits for as long as a busy machine needs, and not for the two seconds of a worker."""
    program = """if True:
        import sys
        from gateway.reporting import sentry
        send = sentry.close
        sentry.close = lambda timeout_s: send(timeout_s=30 * timeout_s)
        from gateway.settings import Settings
        sentry.configure(Settings(_env_file=None, sentry_dsn=sys.argv[1]))
        int("not a number")
    """
    for _ in range(TRIES):
        ended = subprocess.run([sys.executable, "-c", program, server.dsn], capture_output=True, check=False)
        assert ended.returncode == 1
        if server.events:
            break
    assert server.event["exception"]["values"][0]["type"] == "ValueError"


def test_the_proxy_for_api_calls_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch):
    """HTTP_PROXY is ours, and the SDK reads it as well."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sentry.configure(settings_for(server))
    sentry.tell_operator("key_refused", "gone")
    assert server.event


# What is not


def test_a_log_line_is_no_event(configured: Server):
    """An expected retry is logged as well; only what is captured is sent."""
    logging.getLogger("actors").error("Failed with %s", PROMPT)
    logging.getLogger("actors").critical("Failed", exc_info=failure())
    assert configured.text == ""


def test_no_secret_and_no_prompt_is_in_an_event(configured: Server):
    """S5: text, chain, notes, frame variables, breadcrumbs, extra, contexts, user, request, foreign tags."""
    scope = sentry_sdk.get_isolation_scope()
    sentry_sdk.add_breadcrumb(message=PROMPT, data={"key": KEY})
    logging.getLogger("actors").error("Failed with %s", PROMPT)
    scope.set_extra("message", PROMPT)
    scope.set_context("dramatiq", {"data": {"args": [PROMPT]}})
    scope.set_user({"id": PROMPT})
    scope.set_tag("prompt", PROMPT)
    scope.add_event_processor(lambda event, _hint: {**event, "request": {"data": PROMPT, "headers": {"k": KEY}}})
    scope.add_event_processor(lambda event, _hint: {**event, "logentry": {"message": "%s", "params": [PROMPT]}})
    scope.add_attachment(bytes=PROMPT.encode(), filename="prompt.txt")
    sentry.capture_failure(
        GatewayError(f"refused {KEY} {PASSWORD} canary%2Fpassword"), request_id=f"r {KEY}", model=f"m {PASSWORD}"
    )
    sentry.capture_failure(GatewayError("Internal error"), request_id="r-1", model=None, cause=failure())
    sentry.tell_operator("refused", f"{KEY} at amqp://user:{PASSWORD}@host", about=KEY)
    assert len(configured.events) == 3
    assert "canary" not in configured.text


def test_no_secret_and_no_prompt_is_in_a_transaction(configured: Server):
    """Spans are kept for their times, not for what they say."""
    with sentry_sdk.start_transaction(op="generate", name=f"generate {KEY}") as transaction:
        transaction.set_data("prompt", PROMPT)
        transaction.set_tag("prompt", PROMPT)
        with sentry_sdk.start_span(op="call", name=PROMPT) as span:
            span.set_data("body", PROMPT)
            span.set_tag("body", PROMPT)
    event = configured.event
    assert event["type"] == "transaction"
    assert [span["op"] for span in event["spans"]] == ["call"]
    assert "canary" not in configured.text


def test_a_name_from_outside_is_one_short_line(configured: Server):
    """S6: producers choose request ids and models."""
    error = StoreUnavailable("gone")
    sentry.capture_failure(error, request_id="r\n\x1b[2K" + "x" * 500, model="m\u2028n", cause=error)
    tags = configured.event["tags"]
    assert tags["request_id"].startswith("r\\n\\x1b[2Kxx")
    assert len(tags["request_id"]) <= 200
    assert tags["model"] == "m\\u2028n"


MESSAGING = Messaging("gemini.requests", "d-1", 120, latency_ms=7, retry_count=2)
DATA = {
    "messaging.system": "rabbitmq",
    "messaging.destination.name": "gemini.requests",
    "messaging.message.id": "d-1",
    "messaging.message.body.size": 120,
    "messaging.message.receive.latency": 7,
    "messaging.message.retry.count": 2,
}
TRACE_ID, SPAN_ID = "a" * 32, "b" * 16


def test_a_delivery_is_what_the_page_of_queues_is_made_of(configured: Server):
    """A span in a transaction, which is part of the sender's trace; its calls and its publishing are in it."""
    baggage = f"user=canary-user,sentry-trace_id={TRACE_ID},sentry-sampled=true,sentry-user_segment=canary-segment"
    trace = {"sentry-trace": f"{TRACE_ID}-{SPAN_ID}-1", "baggage": baggage}
    with tracing.span("process", MESSAGING, of=trace), tracing.span("call"):
        sentry_sdk.get_current_span().set_data("prompt", PROMPT)  # type: ignore[union-attr]
    event = configured.event
    assert (event["type"], event["transaction"], event["contexts"]["trace"]["op"]) == (
        "transaction",
        "generate",
        "queue.task",
    )
    assert (event["contexts"]["trace"]["trace_id"], event["contexts"]["trace"]["parent_span_id"]) == (TRACE_ID, SPAN_ID)
    process, call = event["spans"]
    assert (process["op"], process["data"]) == ("queue.process", DATA)
    assert (call["op"], call["parent_span_id"], call["data"]) == ("http.client", process["span_id"], {})
    assert "canary" not in configured.text.replace("canarydsn", "")


def test_without_a_share_there_are_no_spans(server: Server):
    """Also not for a sender who asks for them."""
    sentry.configure(settings_for(server))
    assert not tracing.is_on()
    with tracing.span("process", MESSAGING, of={"sentry-trace": f"{TRACE_ID}-{SPAN_ID}-1"}):
        pass
    assert server.text == ""
