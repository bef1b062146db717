"""The one consumer of a process: one connection, served by one thread, that receives through several doors."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import dramatiq
import pika
from dramatiq.errors import ConnectionClosed
from pika.exceptions import AMQPError, ChannelClosedByBroker

from bridge.delivery import Delivered, Delivery
from bridge.door import Door
from bridge.requests import RequestDoor
from bridge.waiting import WaitingDoor
from bridge.work import WorkDoor
from gateway.errors import ErrorCode, TopologyError
from gateway.rabbitmq import amqp
from gateway.rabbitmq.connection_calls import ConnectionCalls
from gateway.rabbitmq.settling import Settling
from gateway.rabbitmq.topology import CALLBACKS, WORK, Topology
from gateway.reporting import sentry

#: How many messages of ours are received at a time whether there is room or not, so that they always get their turn.
ALWAYS_ROOM = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doors:
    """Where deliveries come in; without `work` and `waiting` none but requests do."""

    requests: RequestDoor
    work: WorkDoor | None = None
    waiting: WaitingDoor | None = None

    def by_queue(self) -> dict[str, Door]:
        """The queues that deliver by themselves."""
        ours: dict[str, Door] = dict.fromkeys((WORK, CALLBACKS), self.work) if self.work is not None else {}
        return {**ours, self.requests.queue: self.requests}


class _Subscription:
    """A consumer of one queue, as RabbitMQ counts it: at most `prefetch` of its deliveries are unsettled."""

    def __init__(self, channel: Any, queue: str, prefetch: int, received: Callable[..., None]) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.unsettled: set[Delivery] = set()
        self._channel = channel
        channel.basic_qos(prefetch_count=prefetch)
        self.tag: str = channel.basic_consume(queue, partial(received, queue=queue, subscription=self))

    @property
    def is_full(self) -> bool:
        return len(self.unsettled) >= self.prefetch

    def cancel(self) -> None:
        self._channel.basic_cancel(self.tag)


def connect(  # noqa: PLR0913 - what it takes from others, all by name
    url: str,
    topology: Topology,
    doors: Doors,
    *,
    name: str,
    deadline_s: float,
    room: int,
    idle_s: float,
    stopping: threading.Event,
) -> "Consumer":
    """A consumer on a new connection, its queues declared. Raises TopologyError, AMQPError or ConnectionClosed."""
    connection = amqp.connect(amqp.parameters(url, name=name), deadline_s=deadline_s, stop=stopping)
    try:
        for queue in doors.by_queue():
            topology.declare_one(connection, queue)
        return Consumer(connection, doors, room=room, idle_s=idle_s, stopping=stopping)
    except BaseException:
        with suppress(AMQPError):
            connection.close()
        raise


class Consumer(dramatiq.Consumer):
    """Delivers what arrives, and serves heartbeats while it waits. All methods but settling are for its own thread.

    Room is counted over all doors: the process holds no more unsettled deliveries than `room`, and two of each of our
    own queues, so no request waits here behind a busy thread while another worker is idle. RabbitMQ counts for each
    queue alone. So where there is more work of ours than these two, requests are no longer pushed by RabbitMQ but
    pulled one by one, after that work, until both queues are found empty.

    Raises ConnectionClosed, after which it is to be made anew, when the connection, the channel or a queue goes away.
    """

    def __init__(
        self,
        connection: pika.BlockingConnection,
        doors: Doors,
        *,
        room: int,
        idle_s: float,
        stopping: threading.Event,
    ) -> None:
        self.connection = connection
        self.room = room
        self.idle_s = idle_s
        self.stopping = stopping
        self.waiting = doors.waiting
        self.unsettled: set[Delivery] = set()
        self._doors = doors.by_queue()
        self._request_queue = doors.requests.queue
        self._pulled_queues = [queue for queue in (WORK, self._request_queue) if queue in self._doors]
        self._arrived: deque[Delivery] = deque()
        self._calls = ConnectionCalls(connection)
        self._cancelled: str | None = None
        self._more_work = False  # of ours, perhaps, than is pushed
        self._early_channel: Any = None
        try:
            self.channel = connection.channel()
            self.channel.add_on_cancel_callback(self._on_cancel)
            self._ours = [
                _Subscription(self.channel, queue, ALWAYS_ROOM, self._on_message)
                for queue in self._doors
                if queue != self._request_queue
            ]
            self._requests: _Subscription | None = None
            self._push(room)
        except ChannelClosedByBroker as error:
            raise TopologyError(f"RabbitMQ does not let us consume our queues: {error.reply_text}") from None
        except AMQPError as error:
            raise ConnectionClosed(error) from None

    def __next__(self) -> Delivered | None:
        try:
            if not self._arrived:
                self._calls.serve(self._patience_s(), hurry=self._arrived.__len__)
            self._look_alive()
            if self.stopping.is_set():
                self._stop_fetching()
                return None
            self._make_room()
            if self._arrived:
                return self._open(self._arrived.popleft())
            return self.waiting.next(self) if self.waiting is not None and self._free > 0 else None
        except AMQPError as error:
            raise ConnectionClosed(error) from None

    def get(self, queue: str) -> Delivery | None:
        """One message of a queue that may be missing, None when it has none now."""
        # A channel of its own: getting from a queue that is gone closes the channel, and with it every unsettled tag.
        if self._early_channel is None or not self._early_channel.is_open:
            self._early_channel = self.connection.channel()
        try:
            return self._get(self._early_channel, queue)
        except ChannelClosedByBroker as error:
            logger.warning("Nothing can be taken from %s: %s", queue, error.reply_text)
            return None

    def ack(self, message: dramatiq.MessageProxy) -> None:
        self._settle(message)

    def nack(self, message: dramatiq.MessageProxy) -> None:
        self._settle(message)

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        for message in messages:
            self._settle(message)

    def close(self) -> None:
        """Let what has been settled reach RabbitMQ, then close the connection: the rest goes back to its queues."""
        try:
            self._calls.run()
        except AMQPError as error:
            raise ConnectionClosed(error) from None
        finally:
            with suppress(AMQPError, AssertionError):
                self.connection.close()

    def call_soon(self, call: Callable[[], object], *, after_s: float = 0.0) -> None:
        """Run `call` on the connection's thread; when the connection is gone there is nothing left to settle."""
        try:
            self._calls.call_soon(partial(self.connection.call_later, after_s, call) if after_s else call)
        except AMQPError:
            logger.info("The connection ended before a delivery was settled: it will come again")

    def settled(self, delivery: Delivery) -> None:
        self.unsettled.discard(delivery)
        for subscription in (*self._ours, self._requests):
            if subscription is not None:
                subscription.unsettled.discard(delivery)

    @staticmethod
    def _settle(message: dramatiq.MessageProxy) -> None:
        if isinstance(message, Delivered):  # it may come from an earlier consumer, and knows so
            message.settle()

    @property
    def _free(self) -> int:
        return self.room - len(self.unsettled)

    def _patience_s(self) -> float:
        if self._free <= 0:
            return self.idle_s
        if self._requests is None:
            return 0.0  # they are pulled, and there is room for one
        return self.waiting.patience_s(self.idle_s) if self.waiting is not None else self.idle_s

    def _look_alive(self) -> None:
        if self._cancelled is not None:
            raise ConnectionClosed(RuntimeError(f"RabbitMQ cancelled the consumer of {self._cancelled}"))
        if not self.channel.is_open:
            # pika tells only those who use a closed channel, and a consumer would wait on it for ever.
            raise ConnectionClosed(RuntimeError("RabbitMQ closed the consumer's channel: its log says why"))

    def _open(self, delivery: Delivery) -> Delivered | None:
        door = self._doors[delivery.queue]
        try:
            return door.open(delivery)
        except Exception as error:
            # A fault of ours. At the next try it would be the same, and no other message would be read.
            logger.exception("A fault of the worker, and a message of %s goes to the dead queue", delivery.queue)
            sentry.capture_fault(error, where=type(door).__name__)
            door.to_dead_queue(delivery, reason="a fault of the worker", code=ErrorCode.INTERNAL)
            return None

    def _make_room(self) -> None:
        """Have requests pushed or pulled, whichever keeps what arrives within the room, and uses it."""
        if self._requests is not None:
            if self._more_work or (self._requests.is_full and self._free > 0):
                self._requests.cancel()
                self._requests = None
        elif self._free > 0 and not self._arrived and not self._pulled():
            self._push(self._free)

    def _push(self, prefetch: int) -> None:
        self._more_work = False
        self._requests = _Subscription(self.channel, self._request_queue, prefetch, self._on_message)

    def _pulled(self) -> bool:
        """Whether there was one more message: work of ours, which has waited longer, else a request."""
        for queue in self._pulled_queues:
            delivery = self._get(self.channel, queue)
            if delivery is not None:
                self._arrived.append(delivery)
                return True
        return False

    def _get(self, channel: Any, queue: str) -> Delivery | None:
        method, properties, body = channel.basic_get(queue)
        return self._arrival(channel, method, properties, body, queue) if method is not None else None

    def _on_message(  # noqa: PLR0913 - pika's, and ours by name
        self, channel: Any, method: Any, properties: Any, body: bytes, *, queue: str, subscription: _Subscription
    ) -> None:
        delivery = self._arrival(channel, method, properties, body, queue)
        subscription.unsettled.add(delivery)
        self._arrived.append(delivery)
        self._more_work = self._more_work or (queue == WORK and subscription.is_full)

    def _arrival(self, channel: Any, method: Any, properties: Any, body: bytes, queue: str) -> Delivery:
        delivery = Delivery(
            source=self,
            channel=Settling(channel),
            queue=queue,
            tag=method.delivery_tag,
            body=body,
            properties=properties,
            redelivered=bool(method.redelivered),
        )
        self.unsettled.add(delivery)
        return delivery

    def _on_cancel(self, frame: Any) -> None:
        tag = frame.method.consumer_tag
        self._cancelled = next((one.queue for one in (*self._ours, self._requests) if one and one.tag == tag), tag)

    def _stop_fetching(self) -> None:
        """Cancel, and give back what has arrived but was not started. Idempotent."""
        subscriptions = [one for one in (*self._ours, self._requests) if one is not None]
        self._ours, self._requests = [], None
        for subscription in subscriptions:
            subscription.cancel()
        while self._arrived:
            self._arrived.popleft().settle(confirmed=False)
        self._calls.serve(self.idle_s)
