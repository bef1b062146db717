"""The door for our own messages: requests that were relayed or have waited, and replies that were held."""

import logging
from collections.abc import Callable

from dramatiq.errors import DecodeError

from bridge.delivery import Delivered, Delivery
from bridge.door import Door
from bridge.wire import StrictEncoder
from gateway.errors import ErrorCode
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import CALLBACKS, DEAD_WORK, HOMES, WORK, WORK_DELIVERY_LIMIT
from gateway.settings import Settings
from middleware.outbox import message_properties

logger = logging.getLogger(__name__)


#: After so many deliveries a message of ours is sent anew. RabbitMQ gives one up after twice as many, and counts also
#: those that have only waited here; the ledger knows at which ones a process has died.
SENT_ANEW_AFTER = WORK_DELIVERY_LIMIT // 2


class WorkDoor(Door):
    """A message of ours runs; anything else that lies in our queues is kept for an operator, and runs nothing."""

    def __init__(self, settings: Callable[[], Settings], publisher: Callable[[], Publisher]) -> None:
        super().__init__(publisher, dead_queue=DEAD_WORK)
        self.settings = settings
        self._encoder = StrictEncoder()

    def open(self, delivery: Delivery) -> Delivered | None:
        try:
            # Whatever lane it lies in, work of ours names one queue.
            message = self._encoder.read(delivery.body, queue=CALLBACKS if delivery.queue == CALLBACKS else WORK)
        except DecodeError as error:
            logger.error(  # noqa: TRY400 - the text says it all, and a traceback would show the body
                "Not a message of ours in %s, moved to the dead queue: %s", delivery.queue, error
            )
            self.to_dead_queue(delivery, reason=str(error), code=ErrorCode.INVALID_REQUEST)
            return None
        if self._is_sent_anew(delivery):
            self.move(delivery, delivery.queue, delivery.body, message_properties(message.message_id))
            return None
        return Delivered(message, delivery)

    def _is_sent_anew(self, delivery: Delivery) -> bool:
        is_counted = delivery.queue in HOMES.values() and bool(self.settings().ledger_ttl_seconds)
        return is_counted and _deliveries(delivery) >= SENT_ANEW_AFTER


def _deliveries(delivery: Delivery) -> int:
    """How often RabbitMQ has delivered it before, and got it back."""
    count = (delivery.properties.headers or {}).get("x-delivery-count")
    return count if isinstance(count, int) else 0
