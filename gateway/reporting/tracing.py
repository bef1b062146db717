"""Spans of a delivery: for Sentry's Queues page, and with the extra `otel` for OpenTelemetry. Off they cost nothing.

    receive    a request is read, and runs here or is relayed
    process    around all that is done for a delivery, in the trace of the request that it is about
    call       a call to the provider
    publish    an envelope goes to its callback queue

What is said of them is listed here: nothing of it is a prompt, an answer or a key. The provider is told of no trace.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import sentry_sdk

from gateway.reporting import otel, sentry

#: Of each span: its operation for Sentry, None where Sentry gets none, and the kind that OpenTelemetry knows. No
#: `gen_ai.…`: Sentry's SDK takes such spans out of the event, and sends them past `before_send_transaction`.
KINDS: Mapping[str, tuple[str | None, str]] = {
    "receive": (None, "CONSUMER"),
    "process": ("queue.process", "CONSUMER"),
    "call": ("http.client", "CLIENT"),
    "publish": ("queue.publish", "PRODUCER"),
}

Name = Literal["receive", "process", "call", "publish"]
Trace = Mapping[str, str] | None

#: What of a baggage goes to Sentry: its own facts of a trace. The rest may be anything.
_OF_SENTRY = re.compile(
    r"sentry-(trace_id|public_key|sample_rate|sample_rand|sampled|release|environment)=[\w.@:%/+-]{1,200}"
)


@dataclass(frozen=True, slots=True)
class Messaging:
    """What is said of a message: where it lay, how large it is, how long it was on its way, how often it was tried."""

    destination: str
    message_id: str
    body_bytes: int
    latency_ms: int | None = None
    retry_count: int | None = None

    @property
    def data(self) -> dict[str, Any]:
        """By the names that both have agreed on: https://opentelemetry.io/docs/specs/semconv/messaging/."""
        found = {
            "messaging.system": "rabbitmq",
            "messaging.destination.name": self.destination,
            "messaging.message.id": self.message_id,
            "messaging.message.body.size": self.body_bytes,
            "messaging.message.receive.latency": self.latency_ms,
            "messaging.message.retry.count": self.retry_count,
        }
        return {name: value for name, value in found.items() if value is not None}


def is_on() -> bool:
    """Whether anybody wants spans."""
    return sentry.traces() or otel.traces()


def span(name: Name, messaging: Messaging | None = None, *, of: Trace = None) -> AbstractContextManager[None]:
    """Measure a piece of work; `of` is the trace that it is part of. Without one it is part of the span around it."""
    return _span(name, messaging, of) if is_on() else nullcontext()


@contextmanager
def _span(name: Name, messaging: Messaging | None, of: Trace) -> Iterator[None]:
    operation, kind = KINDS[name]
    data = messaging.data if messaging is not None else {}
    with ExitStack() as both:
        if sentry.traces() and operation is not None:
            if name == "process":
                both.enter_context(_transaction(of))
            piece = both.enter_context(sentry_sdk.start_span(op=operation, name=name))
            for fact, value in data.items():
                piece.set_data(fact, value)
        if otel.traces():
            both.enter_context(otel.span(name, kind, data, of))
        yield


def _transaction(of: Trace) -> Any:
    trace = of or {}
    headers = {"sentry-trace": trace["sentry-trace"]} if "sentry-trace" in trace else {}
    if headers:
        members = (member.strip() for member in trace.get("baggage", "").split(","))
        headers["baggage"] = ",".join(member for member in members if _OF_SENTRY.fullmatch(member))
    return sentry_sdk.start_transaction(sentry_sdk.continue_trace(headers, op="queue.task", name="generate"))
