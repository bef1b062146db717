"""Publish a finished reply to the callback queue: run in the worker at once, or later from `gemini.callbacks`."""

import time
from contextlib import nullcontext

import dramatiq
import pika

from actors.broker import outbox
from gateway.errors import PublishError
from gateway.fields import fits_amqp
from gateway.messages import Reply
from gateway.rabbitmq.topology import CALLBACKS
from gateway.reporting import tracing
from gateway.reporting.tracing import Messaging

nothing = nullcontext()


@dramatiq.actor(queue_name=CALLBACKS, throws=(PublishError,))
def publish_success(reply: Reply) -> None:
    """Return when the success envelope is confirmed. Raises PublishError."""
    _publish(reply, kind="gemini.success")


@dramatiq.actor(queue_name=CALLBACKS, throws=(PublishError,))
def publish_error(reply: Reply) -> None:
    """Return when the error envelope is confirmed. Raises PublishError."""
    _publish(reply, kind="gemini.error")


def _publish(reply: Reply, *, kind: str) -> None:
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        correlation_id=reply.caller.correlation or _as_property(reply.request_id),
        message_id=reply.message_id,
        timestamp=int(time.time()),
        type=kind,
        app_id="gemini-openrouter-worker",
        headers=reply.caller.trace,
    )
    body = reply.body.encode()
    with tracing.span("publish", Messaging(reply.queue, reply.message_id, len(body))) if tracing.is_on() else nothing:
        outbox.publish(reply.queue, body, properties, makes_queue=not reply.caller.waits)


def _as_property(request_id: str | None) -> str | None:
    """A rejected request may have an id of any length: its envelope has it in full."""
    return request_id if request_id and fits_amqp(request_id) else None
