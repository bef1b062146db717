"""A consumer of one of our queues on a connection of its own, which the thread of Dramatiq's ConsumerThread serves."""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
import pika
from dramatiq.errors import ConnectionClosed, DecodeError
from pika.exceptions import AMQPError

from bridge.delivery import Delivery, settle_when
from bridge.waiting import WaitingRoom
from gateway.errors import ErrorCode
from gateway.rabbitmq.connection_calls import ConnectionCalls
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.settling import Settling
from gateway.rabbitmq.topology import DEAD_WORK

if TYPE_CHECKING:
    from bridge.rabbitmq_broker import RabbitmqBroker

logger = logging.getLogger(__name__)


class Consumer(dramatiq.Consumer):
    """Delivers at most `prefetch` unsettled messages at a time and serves heartbeats while it waits.

    Raises ConnectionClosed, after which Dramatiq makes a new consumer, when the connection, the channel or the queue
    goes away. With a waiting room, an idle consumer also delivers requests that wait for a key.
    """

    def __init__(
        self, broker: "RabbitmqBroker", connection: pika.BlockingConnection, queue: str, prefetch: int
    ) -> None:
        self.broker = broker
        self.connection = connection
        self.queue = queue
        self.prefetch = prefetch
        self.unsettled: dict[int, Delivery] = {}
        self.waiting_room: WaitingRoom | None = None
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._calls = ConnectionCalls(connection)
        self._cancelled = False
        try:
            self.channel = connection.channel()
            self.channel.basic_qos(prefetch_count=prefetch)
            self.channel.add_on_cancel_callback(self._on_cancel)
            self._tag: str | None = self.channel.basic_consume(queue, self._on_message)
        except AMQPError as error:
            raise ConnectionClosed(error) from None

    def __next__(self) -> Delivery | None:
        try:
            if not self._arrived:
                self._calls.serve(self._patience_s(), hurry=self._arrived.__len__)
            if self._cancelled:
                raise ConnectionClosed(RuntimeError(f"RabbitMQ cancelled the consumer of {self.queue}"))
            if not self.channel.is_open:
                # pika tells only those who use a closed channel, and a consumer would wait on it for ever.
                raise ConnectionClosed(RuntimeError(f"RabbitMQ closed the channel of {self.queue}: its log says why"))
            if self.broker.resources.stopping.is_set():
                self._stop_fetching()
                return None
            if self._arrived:
                return self._deliver(*self._arrived.popleft())
            return self._early()
        except AMQPError as error:
            raise ConnectionClosed(error) from None

    def ack(self, message: dramatiq.MessageProxy) -> None:
        self._settle(message)

    def nack(self, message: dramatiq.MessageProxy) -> None:
        self._settle(message)

    @staticmethod
    def _settle(message: dramatiq.MessageProxy) -> None:
        if isinstance(message, Delivery):  # it may come from an earlier consumer of this queue, and knows so
            message.settle()

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        for message in messages:
            self._settle(message)

    def close(self) -> None:
        """Let what has been settled reach RabbitMQ, then close the connection: the rest goes back to the queue."""
        try:
            self._calls.run()
            self.connection.close()
        except (AMQPError, AssertionError) as error:
            raise ConnectionClosed(error) from None

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the connection's thread; when the connection is gone there is nothing left to settle."""
        try:
            self._calls.call_soon(callback)
        except AMQPError:
            logger.info("The connection ended before a message of %s was settled: it will come again", self.queue)

    def settled(self, delivery: Delivery) -> None:
        self.unsettled.pop(id(delivery), None)

    def _patience_s(self) -> float:
        longest_s: float = self.broker.idle_s
        return self.waiting_room.patience_s(longest_s) if self.waiting_room and self._has_room() else longest_s

    def _has_room(self) -> bool:
        return len(self.unsettled) < self.prefetch

    def _early(self) -> Delivery | None:
        if self.waiting_room is None or not self._has_room():
            return None
        delivery = self.waiting_room.next()
        return self._hand_out(delivery) if delivery is not None else None

    def _on_message(self, _channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self._arrived.append((method.delivery_tag, body))

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def _deliver(self, tag: int, body: bytes) -> Delivery | None:
        try:
            message = self.broker.encoder.read(body, queue=self.queue)
        except DecodeError as error:
            self._to_dead_queue(tag, body, reason=str(error))
            return None
        return self._hand_out(Delivery(message, source=self, channel=Settling(self.channel), tag=tag))

    def _hand_out(self, delivery: Delivery) -> Delivery:
        self.unsettled[id(delivery)] = delivery
        return delivery

    def _to_dead_queue(self, tag: int, body: bytes, *, reason: str) -> None:
        """Move what nobody can run to the dead queue: confirmed there, then acked here."""
        logger.error("Not a message of ours in %s, moved to the dead queue: %s", self.queue, reason)
        moved = self.broker.resources.publisher().submit(
            DEAD_WORK, body, dead_letter(reason=reason, code=ErrorCode.INVALID_REQUEST, source=self.queue)
        )
        moved.add_done_callback(partial(settle_when, source=self, channel=Settling(self.channel), tag=tag))

    def _stop_fetching(self) -> None:
        """Cancel, and give back what has arrived but was not started. Idempotent."""
        if self._tag is not None:
            tag, self._tag = self._tag, None
            self.channel.basic_cancel(tag)
        while self._arrived:
            self.channel.basic_nack(self._arrived.popleft()[0], requeue=True)
        self._calls.serve(self.broker.idle_s)
