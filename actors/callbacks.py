"""Publish a finished reply to the callback queue: run in the worker at once, or later from `gemini.callbacks`."""

import dramatiq

from actors.broker import outbox
from gateway.errors import PublishError
from gateway.messages import Reply
from gateway.rabbitmq.topology import CALLBACKS
from gateway.reporting import tracing
from gateway.reporting.tracing import Messaging
from middleware.outbox import reply_properties


@dramatiq.actor(queue_name=CALLBACKS, throws=(PublishError,))
def publish_success(reply: Reply) -> None:
    """Return when the success envelope is confirmed. Raises PublishError."""
    _publish(reply, kind="gemini.success")


@dramatiq.actor(queue_name=CALLBACKS, throws=(PublishError,))
def publish_error(reply: Reply) -> None:
    """Return when the error envelope is confirmed. Raises PublishError."""
    _publish(reply, kind="gemini.error")


def _publish(reply: Reply, *, kind: str) -> None:
    properties = reply_properties(
        kind=kind, caller=reply.caller, request_id=reply.request_id, message_id=reply.message_id, delivery_mode=2
    )
    body = reply.body.encode()
    with tracing.span("publish", Messaging(reply.queue, reply.message_id, len(body))):
        outbox.publish(reply.queue, body, properties, makes_queue=not reply.caller.waits)
