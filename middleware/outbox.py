"""Publishing from a worker thread: confirmed, and patient while RabbitMQ is away."""

import logging
import threading
from collections.abc import Callable

import pika
from dramatiq import Message

from gateway.errors import ConfirmTimeout, ConnectionLost
from gateway.rabbitmq.publisher import Publisher
from middleware.errors import Stopping

#: Deadline of one publish; the loop around it has none but the end of the process.
PUBLISH_TIMEOUT_S = 15.0

#: How often a worker looks whether RabbitMQ takes publishes again.
READY_POLL_S = 1.0

logger = logging.getLogger(__name__)


class Outbox:
    """The publisher as hooks and actors use it: they wait as long as it takes, or until the process stops.

    Each method raises Stopping when the process ends before it is done.
    """

    def __init__(self, publisher: Callable[[], Publisher], stopping: threading.Event) -> None:
        self._publisher = publisher
        self._stopping = stopping

    def wait_ready(self) -> None:
        """Return when RabbitMQ takes publishes."""
        publisher = self._publisher()
        waiting = False
        while not publisher.ready and not publisher.wait_ready(READY_POLL_S):
            if self._stopping.is_set():
                raise Stopping("the worker is stopping")
            if not waiting:
                logger.warning("Waiting: RabbitMQ takes no publishes now (connection lost, or a memory or disk alarm)")
                waiting = True

    def send(self, message: "Message[None]", queue: str) -> None:
        """Publish a Dramatiq message to `queue` and return when it is confirmed. Raises Unroutable or Nacked."""
        self.publish(queue, message.encode(), message_properties(message.message_id))

    def publish(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Publish and return when it is confirmed. Raises Unroutable or Nacked when the queue refuses it."""
        while True:
            try:
                self._publisher().publish(queue, body, properties, timeout_s=PUBLISH_TIMEOUT_S)
            except (ConfirmTimeout, ConnectionLost) as error:
                logger.warning("Not confirmed yet: %s", error)
                if self._stopping.is_set():
                    raise Stopping("the worker is stopping") from None
            else:
                return


def message_properties(message_id: str) -> pika.BasicProperties:
    """Properties of our own messages, built afresh: nothing of an incoming message is copied."""
    return pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=message_id, app_id="gemini-openrouter-worker"
    )
