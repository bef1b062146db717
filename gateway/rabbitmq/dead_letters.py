"""The properties of a message in a dead queue: why it lies there, since when, and after how many attempts."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

import pika

from gateway.errors import ErrorCode
from gateway.lanes import LOWER
from gateway.reporting.redaction import escape_controls

#: Names the header that says in words why a message is dead.
REASON_HEADER = "x-reason"

#: Names the table of what its sender has said of it, and the count of how often it was sent again.
SENDER_HEADER, REDRIVEN_HEADER = "x-sender", "x-redriven"

#: The properties that are the sender's own; the others tell RabbitMQ what to do.
_KEPT = ("reply_to", "correlation_id", "message_id", "content_type", "content_encoding", "type", "app_id")

#: How many headers of a sender are kept, and how long a text in one may be, in bytes.
MOST_HEADERS, LONGEST_TEXT = 32, 1024

#: What AMQP can write of whole numbers. pika reads wider ones, and other numbers as whole ones, and can write neither.
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1

#: RabbitMQ obeys these, or writes them itself.
_NOT_KEPT = frozenset({"cc", "bcc", "x-death", "x-delay", "x-delivery-count", "x-acquired-count"})


def dead_letter(  # noqa: PLR0913 - facts, all by name
    *,
    reason: str,
    code: ErrorCode,
    source: str,
    request_id: str | None = None,
    first_seen: float | None = None,
    attempts: int = 1,
    sender: pika.BasicProperties | None = None,
) -> pika.BasicProperties:
    """Properties for a copy in a dead queue, built afresh; those of the `sender` are kept as data, for its next life.

    `reason` is a text without any of the body, `source` the queue it comes from, `first_seen` epoch seconds.
    """
    now = time.time()
    headers: dict[str, Any] = {
        REASON_HEADER: escape_controls(reason, 500),
        "x-error-code": code.value,
        "x-source-queue": source,
        "x-first-time": int(first_seen if first_seen is not None else now),
        "x-last-time": int(now),
        "x-attempts": attempts,
    }
    if sender is not None:
        headers[SENDER_HEADER] = said_by(sender)
    return pika.BasicProperties(
        delivery_mode=2,
        message_id=str(uuid.uuid4()),
        correlation_id=_short(request_id) if request_id else None,
        timestamp=int(now),
        type="dead_letter",
        headers=headers,
    )


def said_by(sender: pika.BasicProperties) -> dict[str, Any]:
    """What a sender has said of its message: names and plain headers, in bounds; nothing that RabbitMQ would obey."""
    said: dict[str, Any] = {name: value for name in _KEPT if _is_name(value := getattr(sender, name))}
    if sender.priority in LOWER:  # it has put the request into the batch lane
        said["priority"] = sender.priority
    return {**said, "headers": _plain(sender.headers or {})}


def as_it_came(headers: Mapping[str, Any]) -> pika.BasicProperties | None:
    """The properties that the sender of a dead letter gave it, None where nothing was kept of them."""
    said = headers.get(SENDER_HEADER)
    if not isinstance(said, dict):
        return None
    properties = pika.BasicProperties(delivery_mode=2, headers=_plain(said.get("headers")))
    for name in _KEPT:
        if _is_name(said.get(name)):
            setattr(properties, name, said[name])
    if isinstance(priority := said.get("priority"), int) and priority in LOWER:
        properties.priority = priority
    return properties


def _plain(headers: object) -> dict[str, Any]:
    """At most MOST_HEADERS of them."""
    if not isinstance(headers, dict):
        return {}
    plain = {name: value for name, value in headers.items() if _may_be_kept(name) and _is_plain(value)}
    return dict(list(plain.items())[:MOST_HEADERS])


def _may_be_kept(name: object) -> bool:
    """Whether it may be the name of a header that is sent on."""
    if not _is_name(name) or str(name).lower() in _NOT_KEPT:
        return False
    return not str(name).startswith(("x-first-death", "x-last-death"))


def _is_name(value: object) -> bool:
    """Whether it is one of AMQP's short strings."""
    return isinstance(value, str) and _fits(value, 255)


def _is_plain(value: object) -> bool:
    """Whether pika can read it and write it again; a float it cannot write."""
    if isinstance(value, int):
        return _SMALLEST <= value <= _LARGEST
    return isinstance(value, str) and _fits(value, LONGEST_TEXT)


def _fits(text: str, limit: int) -> bool:
    try:
        return len(text.encode()) <= limit
    except UnicodeEncodeError:  # half a character
        return False


def _short(request_id: str) -> str:
    """As much of it as fits into one of AMQP's short strings: 255 bytes."""
    return escape_controls(request_id, 255).encode()[:255].decode(errors="ignore")
