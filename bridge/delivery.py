"""A message as RabbitMQ has delivered it, and the only place that settles it."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import pika
from dramatiq import Message
from dramatiq.broker import MessageProxy

from gateway.rabbitmq.topology import WORK
from middleware.attempt import Parking, attempt_of

#: How long a delivery without a confirmed outcome rests before it goes back to its queue, in seconds. Not at once: what
#: fails now would come back and fail again, as fast as it can loop, until RabbitMQ gives it up.
RETRY_S = 1.0

logger = logging.getLogger(__name__)


class Channel(Protocol):
    """The part of a pika channel that settling needs; used on the channel's own thread only."""

    @property
    def is_open(self) -> bool: ...
    def basic_ack(self, delivery_tag: int) -> None: ...
    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None: ...


class Source(Protocol):
    """The consumer that has received a delivery: runs `call` on the thread of its connection, or says False."""

    def call_soon(self, call: Callable[[], object], *, after_s: float = 0.0) -> bool: ...
    def settled(self, delivery: "Delivery") -> None: ...
    def park(self, message: "Delivered", parking: Parking) -> bool: ...
    def sort_into(self, delivery: "Delivery", queue: str) -> None: ...


class Delivery:
    """One arrived message, bound to the channel that delivered it.

    A delivery tag means something on its own channel only: on the channel after a reconnect the same number is another
    message. So the delivery keeps its channel, and when that is gone, settling does nothing: RabbitMQ has given the
    message back already.
    """

    def __init__(  # noqa: PLR0913 - what AMQP says of a delivery, all by name
        self,
        *,
        source: Source,
        channel: Channel,
        queue: str,
        tag: int,
        body: bytes,
        properties: pika.BasicProperties,
        redelivered: bool,
    ) -> None:
        self.queue = queue
        self.body = body
        self.properties = properties
        self.redelivered = redelivered
        self._source = source
        self._channel = channel
        self._tag = tag
        self.is_settled = False

    def settle(self, *, confirmed: bool, after_s: float = 0.0) -> None:
        """Ack what has a confirmed outcome, give back the rest, `after_s` seconds from now. Idempotent, on any thread.

        The function `_settle` below has the only line of the program that acks a delivery.
        """
        if self.is_settled:
            return
        self.is_settled = True
        settle = partial(_settle, self._channel, self._tag, confirmed=confirmed)
        if after_s and self._source.call_soon(partial(self._settle_at_last, settle), after_s=after_s):
            return
        self._source.call_soon(settle)
        self._source.settled(self)  # there is room for another one while the ack is on its way

    def later(self, call: Callable[[], object], *, after_s: float) -> bool:
        """Run `call` after so many seconds on the thread that received it; False when that ends."""
        return not self.is_gone and self._source.call_soon(call, after_s=after_s)

    def park(self, message: "Delivered", parking: Parking) -> bool:
        """Hand it out again later, unsettled; False when that cannot be, and it is to be settled now."""
        return not self.is_settled and not self.is_gone and self._source.park(message, parking)

    def sort_into(self, queue: str) -> None:
        """It is about to be moved to a queue from which this process takes its turn; until then it takes no room."""
        self._source.sort_into(self, queue)

    @property
    def is_gone(self) -> bool:
        """RabbitMQ has it back, because its channel has ended: whoever gets it next does what is to be done."""
        return not self._channel.is_open

    def _settle_at_last(self, settle: Callable[[], None]) -> None:
        settle()
        self._source.settled(self)


class Delivered(MessageProxy):
    """A Dramatiq message that waits or runs in this process, with the delivery that it came in.

    For Dramatiq all come from one queue, whatever queue they lay in: it settles a message through the consumer of the
    queue that it names, and there is one consumer.
    """

    queue_name = WORK

    def __init__(self, message: "Message[None]", delivery: Delivery) -> None:
        super().__init__(message)
        self.delivery = delivery
        self.give_lease_back: Callable[[], None] | None = None  # of one that came with a lease

    @property
    def is_gone(self) -> bool:
        return self.delivery.is_gone

    def settle(self) -> None:
        """Settle the delivery by what has become of its attempt, or park it. Idempotent."""
        attempt = attempt_of(self)
        parking = attempt.look_again()
        if self.give_lease_back is not None:
            self.give_lease_back()  # a key does not wait with it
        if parking is not None and self.delivery.park(self, parking):
            return
        confirmed = attempt.outcome is not None
        try:
            while attempt.at_end:
                attempt.at_end.pop()()
        finally:
            self.delivery.settle(confirmed=confirmed, after_s=0.0 if confirmed else RETRY_S)


def _settle(channel: Channel, tag: int, *, confirmed: bool) -> None:
    if not channel.is_open:
        return
    if confirmed:
        channel.basic_ack(tag)
    else:
        channel.basic_nack(tag, requeue=True)
