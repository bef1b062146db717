"""The headers of a trace, from a request to its answer; spans for OpenTelemetry."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge.requests import RequestDoor
from console.dead.letter import DeadLetter
from gateway.errors import ErrorCode, Nacked, RateLimited, UpstreamFailed
from gateway.messages import Caller, Job
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.reporting import otel, tracing
from gateway.traces import LONGEST_BAGGAGE, MOST_STATES, trace_of
from tests.world import Channel, World, delivery, job, world

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
TRACE = {
    "traceparent": PARENT,
    "tracestate": "vendor=one,tenant@other=two",
    "sentry-trace": f"{'a' * 32}-{'b' * 16}-1",
    "baggage": "user=7;kind=a, sentry-sampled=true",
}
HEADERS = TRACE | {"x-api-key": "canary", "CC": ["other"], "traceparents": PARENT}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path, OPENROUTER_API_KEYS="sk-or-v1-key-one-1111") as made:
        yield made


def test_a_trace_is_four_headers_and_no_more():
    assert trace_of(HEADERS) == TRACE
    assert trace_of({"x-other": "a"}) is None
    assert trace_of(None) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("traceparent", PARENT.upper()),
        ("traceparent", PARENT + "\n"),
        ("traceparent", f"ff-{'a' * 32}-{'b' * 16}-01"),
        ("traceparent", f"00-{'0' * 32}-{'b' * 16}-01"),
        ("traceparent", f"00-{'a' * 32}-{'0' * 16}-01"),
        ("traceparent", PARENT.encode()),
        ("traceparent", 7),
        ("sentry-trace", "a" * 32),
        ("sentry-trace", f"{'a' * 32}-{'b' * 16}-2"),
        ("baggage", ""),
        ("baggage", "no value"),
        ("baggage", "a=b\r\nx: y"),
        ("baggage", "a=é"),
        ("baggage", "a=" + "b" * LONGEST_BAGGAGE),
        ("baggage", ",".join(f"a{n}=b" for n in range(65))),
        ("tracestate", "a=b"),  # without a traceparent it says nothing
    ],
)
def test_what_has_not_the_form_goes_no_further(name: str, value: object):
    assert trace_of({name: value}) is None


@pytest.mark.parametrize(
    "state",
    ["", "A=b", "a", "a=b,,c=d", "a=\x01", "a=" + "b" * 512, ",".join(f"a{n}=b" for n in range(MOST_STATES + 1))],
)
def test_a_state_without_the_form_is_left_out(state: str):
    assert trace_of({"traceparent": PARENT, "tracestate": state}) == {"traceparent": PARENT}


def test_a_long_header_takes_no_long_time():
    """Linear in what came."""
    began = time.process_time()
    for value in ("a" * 8192, "a=" * 4096, "a =" * 2700, ";" * 8192, "a=b" + " " * 8000 + ","):
        trace_of({"baggage": value, "traceparent": PARENT, "tracestate": value[:512]})
    assert time.process_time() - began < 1.0


def test_a_forged_message_of_ours_has_no_other_headers():
    """Whoever may publish can write one."""
    assert Caller.model_validate({"trace": {"x-forged": "a", "traceparent": PARENT}}).trace == {"traceparent": PARENT}
    assert Caller.model_validate({"trace": ["a"]}).trace is None


def traced(here: World, **fields: Any) -> Job:
    return job(caller=Caller.of(None, waits=False, headers=HEADERS), **fields)


def answers(here: World) -> list[pika.BasicProperties]:
    return [properties for queue, _, properties in here.publisher.sent if queue == "gemini.responses"]


@pytest.mark.parametrize("relay_all", [False, True])
def test_a_request_brings_its_trace(here: World, relay_all: bool):
    """Also where it is relayed, and where it is refused."""
    publisher: Any = here.publisher
    door = RequestDoor(lambda: here.settings, lambda: here.topology, lambda: publisher, relay_all=relay_all)
    message = door.open(delivery(Channel(), body=b'{"request_id": "r-1", "prompt": "Hello"}', headers=HEADERS))
    found = message if message is not None else here.copies("gemini.generate")[0]
    assert found.args[0].caller.trace == TRACE
    door.open(delivery(Channel(), body=b'{"request_id": "r-1"}', headers=HEADERS))
    (refused,) = here.copies("gemini.callbacks")
    assert refused.args[0].caller.trace == TRACE


def test_an_answer_has_the_trace_of_its_request(here: World):
    """As it came, and no other header; one without a trace has none."""
    here.deliver(here.message(traced(here)))
    here.deliver(here.message(job(2)))
    assert [properties.headers for properties in answers(here)] == [TRACE, None]


def test_a_trace_goes_through_waits(here: World):
    """For the provider and for a key."""
    limited = RateLimited("HTTP 429", reason="http_429", status=429, retry_after_s=9000.0)
    here.provider.script = [UpstreamFailed("HTTP 503", reason="http_503"), limited]
    here.deliver(here.message(traced(here, received_at=time.time())))
    (copy,) = here.copies("gemini.generate.backoff.2s")
    here.deliver(copy)
    (copy,) = here.copies("gemini.generate.delay.60s")
    for status in here.pool.status():
        here.pool.clear(status.key.digest)
    here.deliver(copy)
    assert [properties.headers for properties in answers(here)] == [TRACE]


def test_a_trace_goes_with_an_answer_that_is_held(here: World):
    """And with one that comes from the ledger."""
    here.publisher.refuse["gemini.responses"] = [Nacked("full", queue="gemini.responses")]
    message = here.message(traced(here))
    here.deliver(message)
    (held,) = here.copies("gemini.callbacks.delay.5s")
    here.deliver(held)
    here.deliver(here.message(traced(here)))
    assert [properties.headers for properties in answers(here)] == [TRACE, TRACE]
    assert len(here.provider.calls) == 1


def test_a_trace_goes_with_what_is_redriven(here: World):
    """With work of ours in its body, with a producer's bytes in its headers."""
    properties = dead_letter(reason="r", code=ErrorCode.INTERNAL, source="gemini.generate")
    letter = DeadLetter("gemini.generate.dead", here.message(traced(here)).encode(), properties)
    found = letter.redriven("gemini.requests")
    assert found is not None
    assert TRACE["baggage"].encode() in found[1]
    sender = pika.BasicProperties(headers=dict(HEADERS))
    properties = dead_letter(reason="r", code=ErrorCode.INVALID_REQUEST, source="gemini.requests", sender=sender)
    found = DeadLetter("gemini.requests.dead", b"?", properties).redriven("gemini.requests")
    assert found is not None
    assert trace_of(found[2].headers) == TRACE


# OpenTelemetry


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    otel.export_to(exporter)
    yield exporter
    otel.close(timeout_s=10.0)


def test_a_delivery_is_a_span_in_the_trace_of_its_request(here: World, spans: InMemorySpanExporter):
    """With its call and its publishing in it, and nothing of what was asked or answered."""
    here.deliver(here.message(traced(here)))
    here.deliver(here.message(job(2)))
    otel._State.provider.force_flush()
    found = {f"{span.name}{number // 3}": span for number, span in enumerate(spans.get_finished_spans())}
    process, call, publish = found["process0"], found["call0"], found["publish0"]
    assert (f"{process.context.trace_id:x}", f"{process.parent.span_id:x}") == ("a" * 32, "b" * 16)
    assert call.parent.span_id == publish.parent.span_id == process.context.span_id
    assert found["process1"].parent is None
    assert process.kind.name == "CONSUMER"
    assert process.attributes["messaging.destination.name"] == "gemini.generate"
    assert publish.attributes["messaging.destination.name"] == "gemini.responses"
    text = "".join(span.to_json() for span in found.values())
    assert "canary" not in text
    assert "sk-or" not in text


def test_a_request_that_is_read_is_a_span(here: World, spans: InMemorySpanExporter):
    """In the trace that it brings, or in one of its own."""
    publisher: Any = here.publisher
    door = RequestDoor(lambda: here.settings, lambda: here.topology, lambda: publisher)
    for headers in (HEADERS, None):
        door.open(delivery(Channel(), body=b'{"request_id": "r-1", "prompt": "canary"}', headers=headers))
    otel._State.provider.force_flush()
    first, second = spans.get_finished_spans()
    assert (first.name, f"{first.context.trace_id:x}", second.parent) == ("receive", "a" * 32, None)
    assert first.attributes["messaging.destination.name"] == "gemini.requests"
    assert "canary" not in first.to_json()


def test_a_call_that_fails_says_so_by_its_type(here: World, spans: InMemorySpanExporter):
    """Its text may hold anything."""
    here.provider.script = [ValueError("canary")]
    here.deliver(here.message(traced(here)))
    otel._State.provider.force_flush()
    call = next(span for span in spans.get_finished_spans() if span.name == "call")
    assert (call.attributes["error.type"], call.status.status_code.name) == ("ValueError", "ERROR")
    assert "canary" not in "".join(span.to_json() for span in spans.get_finished_spans())


@pytest.mark.parametrize(
    ("environment", "made"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, False),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
    ],
)
def test_spans_are_made_when_the_environment_asks(environment: dict[str, str], made: bool):
    otel.configure(environment)
    try:
        assert otel.traces() is made
        assert tracing.is_on() is made
    finally:
        otel.close(timeout_s=0.1)


def test_a_worker_without_the_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    otel.configure({"OTEL_TRACES_EXPORTER": "otlp"})
    assert "install the extra otel" in caplog.text
    assert not otel.traces()


def test_nothing_of_it_is_imported_unless_asked_for():
    """What is off costs nothing. (redis-py imports it where it is installed.)"""
    code = "import sys, middleware.tracing; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
