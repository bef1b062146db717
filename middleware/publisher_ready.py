"""Nothing is paid for that cannot be delivered."""

import logging
from collections.abc import Callable

from gateway.rabbitmq.publisher import Publisher
from middleware.attempt import Attempt
from middleware.hook import Around, Hook

#: How long a delivery waits for the publisher with its thread, and how often it is looked at after that, in seconds.
MOMENT_S, LOOK_AGAIN_S = 0.1, 0.5

logger = logging.getLogger(__name__)


class PublisherReady(Hook[Attempt]):
    """A delivery is parked while answers cannot be published: connection lost, or a memory or disk alarm."""

    def __init__(self, publisher: Callable[[], Publisher]) -> None:
        self.publisher = publisher

    def around(self, attempt: Attempt) -> Around:
        publisher = self.publisher()
        if not publisher.ready and not publisher.wait_ready(MOMENT_S):
            level = logging.DEBUG if attempt.looks else logging.WARNING
            logger.log(level, "Waiting: RabbitMQ takes no publishes now (connection lost, or a memory or disk alarm)")
            raise attempt.park("RabbitMQ takes no publishes", after_s=LOOK_AGAIN_S, keeps_room=True)
        yield
