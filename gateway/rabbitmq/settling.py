"""Acks and nacks of a consumer's channel that leave together."""

from pika.adapters.blocking_connection import BlockingChannel


class Settling:
    """A channel on which settling costs no system call of its own. For the thread of its connection.

    pika's blocking channel writes every ack to the socket at once. Here it waits for the next turn of the connection's
    loop, which writes all of a burst together; the consumer turns the loop right after it has settled.
    """

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel

    @property
    def is_open(self) -> bool:
        return bool(self._channel.is_open)

    def basic_ack(self, delivery_tag: int) -> None:
        self._channel._impl.basic_ack(delivery_tag)  # noqa: SLF001 - the channel below, which the blocking one flushes

    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None:
        self._channel._impl.basic_nack(delivery_tag, requeue=requeue)  # noqa: SLF001
