"""Takes dead letters out of their queues, holds them while they are looked at, and puts them back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from pika.exceptions import AMQPError, ConnectionBlockedTimeout, NackError, UnroutableError

from console.dead.letter import DeadLetter
from console.depths import depth
from gateway.errors import Nacked, TopologyError, Unroutable
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import DEAD_REQUESTS, DEAD_WORK
from gateway.settings import Settings

#: How long to wait for RabbitMQ, in seconds: somebody sits there and waits too.
CONNECT_DEADLINE_S = 10.0

QUEUES = (DEAD_REQUESTS, DEAD_WORK)


@dataclass(frozen=True)
class HeldLetter:
    """A dead letter in our hands: RabbitMQ keeps it, and gives it to nobody else meanwhile."""

    letter: DeadLetter
    tag: int


class DeadQueues:
    """One connection, on which letters stay unacked until they are removed; what is left goes back at the end.

    A crash at any moment loses none of them; one that was just sent again may be there twice. For one thread.
    """

    def __init__(self, settings: Settings) -> None:
        parameters = amqp.parameters(settings.amqp_address, name="dead")
        parameters.blocked_connection_timeout = CONNECT_DEADLINE_S  # an alarm of RabbitMQ may take hours
        self._connection = amqp.connect(parameters, deadline_s=CONNECT_DEADLINE_S)
        self._channel: Any = self._connection.channel()
        self._channel.confirm_delivery()
        self._request_queue = settings.request_queue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            self._connection.close()

    def letters(self, queue: str, wanted: Callable[[DeadLetter], bool], limit: int) -> Iterator[HeldLetter]:
        """The letters of `queue` that are wanted, in order, among the first `limit` that lie there now."""
        for _ in range(min(limit, self.count(queue))):
            method, properties, body = self._channel.basic_get(queue)
            if method is None:
                return
            letter = DeadLetter(queue, body, properties)
            if wanted(letter):
                yield HeldLetter(letter, method.delivery_tag)

    def count(self, queue: str) -> int:
        """How many letters lie in `queue`; a queue that does not exist has none."""
        found = depth(self._connection, queue)
        return found.messages if found is not None else 0

    def redrive(self, held: HeldLetter, *, dry: bool) -> str | None:
        """Send a letter where it can live again, and remove it when RabbitMQ has confirmed that; the queue it goes to.

        None when it can go nowhere. Raises Unroutable or Nacked when the queue does not take it, and the letter stays.
        """
        target = held.letter.redriven(self._request_queue)
        if target is None or dry:
            return target[0] if target is not None else None
        queue, body, properties = target
        try:
            self._channel.basic_publish("", queue, body, properties, mandatory=True)
        except UnroutableError:
            text = f"The queue {queue} does not exist: start a worker, which declares it"
            raise Unroutable(text, queue=queue) from None
        except NackError:
            raise Nacked(f"The queue {queue} refused the message", queue=queue) from None
        self.remove(held.tag)
        return queue

    def remove(self, tag: int) -> None:
        self._channel.basic_ack(tag)


def gone(error: AMQPError) -> TopologyError:
    """One line for a connection that ended in between."""
    if isinstance(error, ConnectionBlockedTimeout):
        return TopologyError("RabbitMQ takes no messages now (a memory or disk alarm): free some, then try again")
    return TopologyError(f"The connection to RabbitMQ ended ({type(error).__name__}): nothing is lost, try again")
