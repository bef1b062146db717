"""What a dead letter is, why it is dead, and where it would go from here."""

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import pika
from dramatiq import Message
from dramatiq.errors import DecodeError

from bridge.wire import StrictEncoder
from gateway.messages import Job, Reply
from gateway.rabbitmq.dead_letters import REASON_HEADER, REDRIVEN_HEADER, SENDER_HEADER, as_it_came
from gateway.rabbitmq.topology import CALLBACKS, DEAD_REQUESTS, HOMES, WORK
from gateway.reporting.redaction import escape_controls, redact
from middleware.outbox import message_properties

#: Of what a sender gave its message these are shown.
SHOWN = ("reply_to", "correlation_id", "message_id", "content_type")

#: So often nothing is sent again: a larger count is made up.
MOST_REDRIVES = 1_000_000

#: `request`: bytes as a producer sent them; `work`: a request that was accepted; `reply`: a finished envelope.
Kind = Literal["request", "work", "reply", "unknown"]


@dataclass(frozen=True)
class DeadLetter:
    """A message of a dead queue. Its `repr` shows nothing of the body."""

    queue: str
    body: bytes = field(repr=False)
    properties: pika.BasicProperties = field(repr=False)

    @cached_property
    def id(self) -> str:
        """Its `message_id`; for a message without one, a name made of its bytes."""
        name = self.properties.message_id
        return _line(name, 64) if name else hashlib.sha256(self.body).hexdigest()[:32]

    @cached_property
    def message(self) -> "Message[Any] | None":
        """The message of ours that it is; None for bytes of other people."""
        if self.queue == DEAD_REQUESTS:
            return None
        for queue in (WORK, CALLBACKS):
            try:
                return StrictEncoder().read(self.body, queue=queue)
            except DecodeError:
                continue
        return None

    @property
    def kind(self) -> Kind:
        if self.queue == DEAD_REQUESTS:
            return "request"
        match self.message.args if self.message is not None else ():
            case (Job(),):
                return "work"
            case (Reply(),):
                return "reply"
        return "unknown"

    @property
    def request_id(self) -> str | None:
        """As it may be shown: cut, and without secrets."""
        return _line(self._request_id, 64) if self._request_id else None

    @property
    def names(self) -> set[str | None]:
        """By what it may be called: the ids of the letter and of its request, as they are shown and as they came."""
        return {self.id, self.properties.message_id, self.request_id, self._request_id} - {None}

    @property
    def _request_id(self) -> str | None:
        if self.message is not None:
            return str(self.message.args[0].request_id)
        return self.properties.correlation_id or None

    @property
    def facts(self) -> dict[str, Any]:
        """What may be shown to anybody: nothing of a prompt or an answer. Times are ISO 8601, UTC."""
        headers = self._headers
        death = _death(headers)
        return {
            "queue": self.queue,
            "id": self.id,
            "kind": self.kind,
            "request_id": self.request_id,
            "error_code": _text(headers.get("x-error-code")) or ("delivery_limit" if death else None),
            "attempts": headers.get("x-attempts") if isinstance(headers.get("x-attempts"), int) else None,
            "first": _time(headers.get("x-first-time")),
            "last": _time(headers.get("x-last-time")) or _time(death.get("time")) if headers else None,
            "reason": _text(headers.get(REASON_HEADER)) or _reason(death),
            "redriven": self.redriven_before,
            "sender": _sender(headers),
            "bytes": len(self.body),
        }

    def as_json(self) -> dict[str, Any]:
        """The facts with the body, which is text, or `body_base64` where it is no UTF-8."""
        try:
            return {**self.facts, "body": self.body.decode()}
        except UnicodeDecodeError:
            return {**self.facts, "body_base64": base64.b64encode(self.body).decode()}

    def redriven(self, request_queue: str) -> "tuple[str, bytes, pika.BasicProperties] | None":
        """Queue, body and properties of its next life, None for what has none.

        A request goes back as it came, with what its sender has said of it. Work starts its schedule anew, under its
        old id and with its old `hop`: the ledger knows both, and what is answered already is not called again. A reply
        is delivered, not generated again.
        """
        again = {"redriven": self.redriven_before + 1}
        match self.message.args if self.message is not None else ():
            case (Job() as job,):
                anew = job.model_copy(update={"retry_count": 0, "upstream_retries": 0, **again})
                return self._again(anew, HOMES[job.lane])
            case (Reply() as reply,):
                return self._again(reply.model_copy(update={"attempts": 0, "first_refused_at": None, **again}))
        if self.queue != DEAD_REQUESTS:
            return None
        return request_queue, self.body, self._marked(as_it_came(self._headers) or self._named())

    def _named(self) -> pika.BasicProperties:
        """For a letter of which nothing was kept: its own name, and that of its request."""
        properties = message_properties(self.id)
        properties.correlation_id = self.request_id
        return properties

    def _marked(self, properties: pika.BasicProperties) -> pika.BasicProperties:
        """As one that was sent again, once more than before."""
        properties.headers = {**(properties.headers or {}), REDRIVEN_HEADER: self.redriven_before + 1}
        return properties

    @property
    def redriven_before(self) -> int:
        """How often it was sent again. Messages of ours say so themselves: they may have been through many queues."""
        if self.message is not None:
            return _count(self.message.args[0].redriven)
        said = self._headers.get(SENDER_HEADER)
        kept = said.get("headers") if isinstance(said, dict) else None
        for headers in (self._headers, kept if isinstance(kept, dict) else {}):
            if (count := _count(headers.get(REDRIVEN_HEADER))) > 0:
                return count
        return 0

    @property
    def _headers(self) -> dict[str, Any]:
        return self.properties.headers or {}

    def _again(self, argument: Job | Reply, queue: str = CALLBACKS) -> "tuple[str, bytes, pika.BasicProperties]":
        message = self.message
        if message is None:
            raise LookupError("only a message of ours has a next life of ours")
        copy = message.copy(args=(argument,), options={})
        properties = self._marked(message_properties(copy.message_id))
        return queue, StrictEncoder().encode(copy.asdict()), properties


def _death(headers: dict[str, Any]) -> dict[str, Any]:
    """RabbitMQ's own record, where it has moved the message by itself."""
    deaths = headers.get("x-death")
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _reason(death: dict[str, Any]) -> str | None:
    if not death:
        return None
    if death.get("reason") == "delivery_limit":
        return f"delivered again and again from {_line(death.get('queue'), 80)}, and settled never: it ends its worker"
    return f"{_line(death.get('reason'), 40)} in {_line(death.get('queue'), 80)}"


def _sender(headers: dict[str, Any]) -> dict[str, Any] | None:
    """What the sender gave the letter, for an operator's screen: of headers only their names, they may hold a token."""
    kept = as_it_came(headers)
    if kept is None:
        return None
    said = {name: _line(value, 200) for name in SHOWN if (value := getattr(kept, name))}
    return {**said, "headers": [_line(name, 80) for name in kept.headers]}


def _count(value: object) -> int:
    """A count of ours; 0 for what somebody else has written there."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST_REDRIVES else 0


def _text(value: object) -> str | None:
    return _line(value, 200) if isinstance(value, str) and value else None


def _line(value: object, limit: int) -> str:
    return redact(escape_controls(str(value), limit))


def _time(value: object) -> str | None:
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC).timestamp()
    if not isinstance(value, int | float) or not 0 <= value < 253_402_300_800:  # noqa: PLR2004 - the year 10000
        return None
    return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
