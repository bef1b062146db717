"""The properties of a message in a dead queue: why it lies there, since when, and after how many attempts."""

import time
import uuid

import pika

from gateway.errors import ErrorCode
from gateway.reporting.redaction import escape_controls

#: Names the header that says in words why a message is dead.
REASON_HEADER = "x-reason"


def dead_letter(  # noqa: PLR0913 - facts, all by name
    *,
    reason: str,
    code: ErrorCode,
    source: str,
    request_id: str | None = None,
    first_seen: float | None = None,
    attempts: int = 1,
) -> pika.BasicProperties:
    """Properties for a copy in a dead queue; nothing of the original's is taken over.

    `reason` is a text without any of the body, `source` the queue it comes from, `first_seen` epoch seconds.
    """
    now = time.time()
    headers = {
        REASON_HEADER: escape_controls(reason, 500),
        "x-error-code": code.value,
        "x-source-queue": source,
        "x-first-time": int(first_seen if first_seen is not None else now),
        "x-last-time": int(now),
        "x-attempts": attempts,
    }
    return pika.BasicProperties(
        delivery_mode=2,
        message_id=str(uuid.uuid4()),
        correlation_id=_short(request_id) if request_id else None,
        timestamp=int(now),
        type="dead_letter",
        headers=headers,
    )


def _short(request_id: str) -> str:
    """As much of it as fits into one of AMQP's short strings: 255 bytes."""
    return escape_controls(request_id, 255).encode()[:255].decode(errors="ignore")
