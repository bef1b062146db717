"""Dramatiq's RabbitMQ broker with our settlement: one consumer, confirmed publishes, no delays in worker memory."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker as StockBroker
from dramatiq.errors import ConnectionClosed
from pika.exceptions import AMQPError

from bridge.consumer import Consumer, Doors, connect
from bridge.delivery import Delivery
from bridge.parked import Parked
from bridge.wire import StrictEncoder
from gateway.errors import TopologyError
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import WORK, Topology
from gateway.settings import Settings
from middleware.outbox import message_properties

#: How long a consumer waits for RabbitMQ before Dramatiq makes a new one, in seconds.
CONNECT_DEADLINE_S = 30.0


class RabbitmqBroker(StockBroker):
    """Connects nowhere until it consumes or enqueues, and then through resources that are open by then.

    `enqueue` returns when RabbitMQ has confirmed the message. A delay is refused: Dramatiq would hold the message
    unacked in a worker's memory, where waits over RabbitMQ's consumer timeout are torn away (Dramatiq #827).
    """

    def __init__(  # noqa: PLR0913 - what it takes from others, all by name
        self,
        doors: Doors,
        *,
        settings: Callable[[], Settings],
        topology: Callable[[], Topology],
        publisher: Callable[[], Publisher],
        stopping: threading.Event,
        middleware: list[dramatiq.Middleware],
    ) -> None:
        super().__init__(middleware=middleware)
        self.doors = doors
        self.settings, self.topology, self.publisher = settings, topology, publisher
        self.stopping = stopping
        self.encoder = StrictEncoder()
        self.listeners: dict[str, bool] = {}
        self.others: set[Delivery] = set()  # of earlier consumers, that still run
        self.parked = Parked()

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As Dramatiq does, but for what nobody listens to: each ack would call every middleware four times in vain."""
        if self._is_heard(f"before_{signal}"):
            super().emit_before(signal, *args, **kwargs)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        if self._is_heard(f"after_{signal}"):
            super().emit_after(signal, *args, **kwargs)

    def add_middleware(self, middleware: dramatiq.Middleware, **place: Any) -> None:
        super().add_middleware(middleware, **place)
        self.listeners = {}

    def _is_heard(self, signal: str) -> bool:
        heard = self.listeners.get(signal)
        if heard is None:
            nothing = getattr(dramatiq.Middleware, signal, None)
            heard = any(getattr(type(one), signal, None) is not nothing for one in self.middleware)
            self.listeners[signal] = heard
        return heard

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Register the queue of the one consumer, whatever queue an actor names.

        Dramatiq makes a consumer for each queue that it knows. Those of RabbitMQ are declared at boot.
        """
        if WORK not in self.queues:
            self.emit_before("declare_queue", WORK)
            self.queues.add(WORK)
            self.emit_after("declare_queue", WORK)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A new consumer on a new connection. Raises ConnectionClosed, after which Dramatiq tries again."""
        settings = self.settings()
        try:
            return connect(
                settings.amqp_address,
                self.topology(),
                self.doors if settings.queue_early_release else replace(self.doors, waiting=None),
                name="worker.consumer",
                deadline_s=CONNECT_DEADLINE_S,
                room=prefetch,
                idle_s=timeout / 1000,
                stopping=self.stopping,
                others=self.others,
                parked=self.parked,
            )
        except (TopologyError, AMQPError) as error:
            raise ConnectionClosed(error) from None

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":
        """Publish a message and wait for the confirm. Raises PublishError; ValueError for a delay."""
        if delay is not None:
            raise ValueError("no delays: a wait is a copy in one of the delay queues (middleware/retry_schedule.py)")
        self.emit_before("enqueue", message, delay)
        self.publisher().publish(message.queue_name, message.encode(), message_properties(message.message_id))
        self.emit_after("enqueue", message, delay)
        return message

    def close(self) -> None:
        """Nothing: consumers close their own connections, and the boot hook what it has opened."""
