"""A request on its way out, and what comes back: pure, and the same for both clients."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gemini_client.errors import RequestFailed, failure

REQUESTS = "gemini.requests"

#: RabbitMQ puts a token of this channel behind it: https://www.rabbitmq.com/docs/direct-reply-to
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the request queue; `properties` have AMQP's names, `timestamp` is epoch seconds."""

    request_id: str
    body: bytes = field(repr=False)
    properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. With a higher `attempt` the answer begins anew, and what came before it is void."""

    attempt: int
    seq: int
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """An answer: its text, the calls of tools that it has, and the whole envelope."""

    request_id: str
    content: str = field(repr=False)
    envelope: Mapping[str, Any] = field(repr=False)

    @property
    def usage(self) -> Mapping[str, Any]:
        return self.envelope.get("usage", {})  # type: ignore[no-any-return]

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        return self.envelope.get("tool_calls", [])  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What came for `request_id`; `message_id` is the same for every copy of one envelope."""

    request_id: str
    message_id: str | None
    content: Delta | Result | RequestFailed


def request(prompt: str | None, fields: Mapping[str, Any], *, queue: str | None) -> Outgoing:
    """The message that asks; answers go to `queue`, or where there is none to the channel that publishes it.

    Durations count from now: `timestamp` is set.
    """
    request_id = str(fields.get("request_id") or uuid.uuid4())
    body = {"prompt": prompt, **fields, "request_id": request_id, "callback_queue": queue}
    return _outgoing(request_id, body, {"reply_to": queue or DIRECT_REPLY_TO, "type": "gemini.request"})


def cancel(request_id: str) -> Outgoing:
    """The message that takes a request back; it has no answer of its own."""
    return _outgoing(request_id, {"cancel": request_id}, {"type": "gemini.cancel"})


def _outgoing(request_id: str, body: Mapping[str, Any], properties: dict[str, Any]) -> Outgoing:
    given = {name: value for name, value in body.items() if value is not None}
    fixed = {"content_type": "application/json", "delivery_mode": 2, "timestamp": int(time.time())}
    return Outgoing(request_id, json.dumps(given).encode(), {**fixed, "correlation_id": request_id, **properties})


def incoming(body: bytes, *, correlation_id: str | None, message_id: str | None) -> Incoming | None:
    """What the worker says, None where it is nothing of the worker's."""
    try:
        told = json.loads(body)
    except ValueError:
        return None
    if not isinstance(told, dict) or not (request_id := correlation_id or told.get("request_id")):
        return None
    content = _content(told, str(request_id))
    return Incoming(str(request_id), message_id, content) if content is not None else None


def _content(told: Mapping[str, Any], request_id: str) -> Delta | Result | RequestFailed | None:
    match told:
        case {"status": "success"}:
            return Result(request_id, str(told.get("content", "")), told)
        case {"status": "error"}:
            return failure(told, request_id)
        case {"attempt": int(attempt), "seq": int(seq), "text": str(text)}:
            return Delta(attempt, seq, text)
    return None
