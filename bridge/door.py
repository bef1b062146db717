"""A door reads one kind of bytes: from a delivery to a message that Dramatiq runs, or to another end of it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import pika

from bridge.delivery import RETRY_S, Delivered, Delivery
from gateway.errors import ConfirmTimeout, ConnectionLost, ErrorCode, PublishError, TooLarge
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.publisher import Publisher
from gateway.reporting import sentry

logger = logging.getLogger(__name__)


class Door:
    """Opened for each delivery of its queues, on the thread of their connection: it must not wait for anything.

    What it sends elsewhere it publishes, and settles the delivery when that is confirmed, or is not.
    """

    def __init__(self, publisher: Callable[[], Publisher], *, dead_queue: str) -> None:
        self.publisher = publisher
        self.dead_queue = dead_queue

    def open(self, delivery: Delivery) -> Delivered | None:
        """The message to run; None when the door takes care of the delivery."""
        raise NotImplementedError

    def move(self, delivery: Delivery, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Publish to `queue`; the delivery is acked when that is confirmed.

        While RabbitMQ takes no publishes it is tried again and not given back: a queue of others may have a limit of
        deliveries, with nowhere to go beyond it.
        """
        again = partial(self.move, delivery, queue, body, properties)
        self.publisher().submit(queue, body, properties).add_done_callback(partial(self._moved, delivery, queue, again))

    def give_up(self, delivery: Delivery, fault: Exception) -> None:
        """Keep for an operator what a fault of ours has kept from being read.

        At the next try it would be the same, and no other message would be read.
        """
        text = "A fault of the worker, and a message of %s goes to the dead queue"
        logger.error(text, delivery.queue, exc_info=fault)
        sentry.capture_fault(fault, where=type(self).__name__)
        self.to_dead_queue(delivery, reason="a fault of the worker", code=ErrorCode.INTERNAL)

    def to_dead_queue(self, delivery: Delivery, *, reason: str, code: ErrorCode, request_id: str | None = None) -> None:
        """Keep what nobody can run for an operator."""
        properties = dead_letter(
            reason=reason, code=code, source=delivery.queue, request_id=request_id, sender=delivery.properties
        )
        self.move(delivery, self.dead_queue, delivery.body, properties)

    def _moved(self, delivery: Delivery, queue: str, again: Callable[[], object], confirmed: "Future[None]") -> None:
        """Runs on the publisher's thread."""
        error = confirmed.exception()
        if error is None:
            delivery.settle(confirmed=True)
        elif isinstance(error, ConfirmTimeout | ConnectionLost) and delivery.later(again, after_s=RETRY_S):
            logger.warning("Not moved yet from %s: %s", delivery.queue, error)
        elif isinstance(error, TooLarge) and queue != self.dead_queue:
            # With what is added on the way; as it came RabbitMQ has taken it once.
            self.to_dead_queue(delivery, reason=str(error), code=ErrorCode.INVALID_REQUEST)
        else:
            level = logging.WARNING if isinstance(error, PublishError) else logging.ERROR
            logger.log(level, "Not moved, it stays in %s: %s", delivery.queue, error)
            delivery.settle(confirmed=False, after_s=RETRY_S)
