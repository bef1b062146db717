"""Publishing from a worker thread, confirmed."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pika
from dramatiq import Message

from gateway.errors import ConfirmTimeout, ConnectionLost
from gateway.fields import fits_amqp
from gateway.messages import Caller
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

    def offer(self, queue: str, body: bytes, properties: pika.BasicProperties) -> "Future[None]":
        """Publish once, if that is possible now, and wait for nothing: see `Publisher.offer`."""
        return self._publisher().offer(queue, body, properties)


def reply_properties(
    *, kind: str, caller: Caller, request_id: str | None, message_id: str, delivery_mode: int
) -> pika.BasicProperties:
    """Properties of what goes to a callback queue.

    A rejected request may have an id of any length: its envelope has it in full, no property has it.
    """
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=delivery_mode,
        correlation_id=caller.correlation or (request_id if request_id and fits_amqp(request_id) else None),
        message_id=message_id,
        timestamp=int(time.time()),
        type=kind,
        app_id="gemini-openrouter-worker",
        headers=caller.trace,
    )


def message_properties(message_id: str) -> pika.BasicProperties:
    """Properties of our own messages, built afresh: nothing of an incoming message is copied."""
    return pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=message_id, app_id="gemini-openrouter-worker"
    )
