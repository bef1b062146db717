"""One delivery from RabbitMQ, and the only place that settles it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol

from dramatiq import Message
from dramatiq.broker import MessageProxy

from middleware.attempt import attempt_of

logger = logging.getLogger(__name__)


class Channel(Protocol):
    """The part of a pika channel that settling needs; used on the channel's own thread only."""

    @property
    def is_open(self) -> bool: ...
    def basic_ack(self, delivery_tag: int) -> None: ...
    def basic_nack(self, delivery_tag: int, *, requeue: bool) -> None: ...


class Source(Protocol):
    """A consumer that delivered messages: runs `callback` on the thread of its connection, or not at all."""

    def call_soon(self, callback: Callable[[], object]) -> None: ...
    def settled(self, delivery: "Delivery") -> None: ...


class Delivery(MessageProxy):
    """A Dramatiq message bound to the channel that delivered it.

    A delivery tag means something on its own channel only: on the channel after a reconnect the same number is
    another message. So the delivery keeps its channel, and when that is gone, settling does nothing: RabbitMQ has
    given the message back already.
    """

    def __init__(
        self,
        message: "Message[None]",
        *,
        source: Source,
        channel: Channel,
        tag: int,
        on_settle: "Callable[[Delivery], None] | None" = None,
    ) -> None:
        super().__init__(message)
        self._source = source
        self._channel = channel
        self._tag = tag
        self._on_settle = on_settle
        self._open = True

    def settle(self) -> None:
        """Ack when the attempt has a confirmed outcome, else give the message back. Idempotent.

        `_settle` below is the only line of the worker that acks.
        """
        if not self._open:
            return
        self._open = False
        if self._on_settle is not None:
            self._on_settle(self)
        self._source.call_soon(
            partial(_settle, self._channel, self._tag, confirmed=attempt_of(self).outcome is not None)
        )
        self._source.settled(self)


def settle_when(future: "Future[None]", *, source: Source, channel: Channel, tag: int) -> None:
    """Settle a delivery that is no message of ours when its copy in a dead queue is confirmed, or is not."""
    source.call_soon(partial(_settle, channel, tag, confirmed=future.exception() is None))


def _settle(channel: Channel, tag: int, *, confirmed: bool) -> None:
    if not channel.is_open:
        return
    if confirmed:
        channel.basic_ack(tag)
    else:
        channel.basic_nack(tag, requeue=True)
