"""Publishing from a worker thread, confirmed."""

import logging
import threading
from collections.abc import Callable

import pika
from dramatiq import Message

from gateway.errors import ConfirmTimeout, ConnectionLost
from gateway.rabbitmq.publisher import Publisher
from middleware.errors import Stopping

#: Deadline of one publish, in seconds.
PUBLISH_TIMEOUT_S = 15.0

logger = logging.getLogger(__name__)


class Outbox:
    """The publisher as hooks and actors use it."""

    def __init__(self, publisher: Callable[[], Publisher], stopping: threading.Event) -> None:
        self._publisher = publisher
        self._stopping = stopping

    def send(self, message: "Message[None]", queue: str) -> None:
        """Publish a Dramatiq message to `queue` and return when it is confirmed, however long that takes.

        Raises Unroutable or Nacked; Stopping when the process ends before it is confirmed.
        """
        self.insist(queue, message.encode(), message_properties(message.message_id))

    def insist(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        """As `send`, for any message."""
        while True:
            try:
                self.publish(queue, body, properties)
            except (ConfirmTimeout, ConnectionLost) as error:
                logger.warning("Not confirmed yet: %s", error)
                if self._stopping.is_set():
                    raise Stopping("the worker is stopping") from None
            else:
                return

    def publish(self, queue: str, body: bytes, properties: pika.BasicProperties, *, makes_queue: bool = True) -> None:
        """Publish once, and return when it is confirmed. Raises PublishError."""
        self._publisher().publish(queue, body, properties, timeout_s=PUBLISH_TIMEOUT_S, makes_queue=makes_queue)


def message_properties(message_id: str) -> pika.BasicProperties:
    """Properties of our own messages, built afresh: nothing of an incoming message is copied."""
    return pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=message_id, app_id="gemini-openrouter-worker"
    )
