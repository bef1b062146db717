"""The door for our own messages: requests that were relayed or have waited, and replies that were held."""

import logging
from collections.abc import Callable

from dramatiq.errors import DecodeError

from bridge.delivery import Delivered, Delivery
from bridge.door import Door
from bridge.wire import StrictEncoder
from gateway.errors import ErrorCode
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import DEAD_WORK

logger = logging.getLogger(__name__)


class WorkDoor(Door):
    """A message of ours runs; anything else that lies in our queues is kept for an operator, and runs nothing."""

    def __init__(self, publisher: Callable[[], Publisher]) -> None:
        super().__init__(publisher, dead_queue=DEAD_WORK)
        self._encoder = StrictEncoder()

    def open(self, delivery: Delivery) -> Delivered | None:
        try:
            return Delivered(self._encoder.read(delivery.body, queue=delivery.queue), delivery)
        except DecodeError as error:
            logger.error(  # noqa: TRY400 - the text says it all, and a traceback would show the body
                "Not a message of ours in %s, moved to the dead queue: %s", delivery.queue, error
            )
            self.to_dead_queue(delivery, reason=str(error), code=ErrorCode.INVALID_REQUEST)
            return None
