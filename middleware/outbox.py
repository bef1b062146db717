"""Publishing from a worker thread: confirmed, and patient while RabbitMQ is away."""

import logging

import pika
from dramatiq import Message

from gateway.errors import ConfirmTimeout, ConnectionLost
from gateway.runtime import Runtime
from middleware.errors import Stopping

#: Deadline of one publish; the loop around it has none but the end of the process.
PUBLISH_TIMEOUT_S = 15.0

logger = logging.getLogger(__name__)


def publish_until_stopped(runtime: Runtime, message: Message[None], queue: str) -> None:
    """Publish a Dramatiq message to `queue` and return when it is confirmed.

    Raises Unroutable or Nacked when the queue refuses it, Stopping when the process ends before the confirm.
    """
    properties = message_properties(message.message_id)
    confirmed_publish(runtime, queue, message.encode(), properties)


def confirmed_publish(runtime: Runtime, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
    """Publish and wait for the confirm, over as many deadlines as it takes while RabbitMQ cannot be reached."""
    while True:
        try:
            runtime.publisher.publish(queue, body, properties, timeout_s=PUBLISH_TIMEOUT_S)
        except (ConfirmTimeout, ConnectionLost) as error:
            logger.warning("Not confirmed yet: %s", error)
            if runtime.stopping.is_set():
                raise Stopping("the worker is stopping") from None
        else:
            return


def message_properties(message_id: str) -> pika.BasicProperties:
    """Properties of our own messages, built afresh: nothing of an incoming message is copied."""
    return pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=message_id, app_id="gemini-openrouter-worker"
    )
