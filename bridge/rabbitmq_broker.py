"""Dramatiq's RabbitMQ broker with our settlement: confirmed publishes, no delay queues in worker memory."""

import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker as StockBroker
from dramatiq.errors import ConnectionClosed
from pika.exceptions import AMQPError

from bridge.consumer import Consumer
from bridge.waiting import WaitingRoom
from bridge.wire import StrictEncoder
from gateway.errors import TopologyError
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import WORK
from gateway.resources import Resources
from middleware.outbox import message_properties

#: How long a consumer waits for RabbitMQ before Dramatiq makes a new one, in seconds.
CONNECT_DEADLINE_S = 30.0


class RabbitmqBroker(StockBroker):
    """Connects nowhere until it consumes or enqueues, and then through the resources's settings.

    `enqueue` returns when RabbitMQ has confirmed the message. A delay is refused: Dramatiq would hold the message
    unacked in a worker's memory, where waits over RabbitMQ's consumer timeout are torn away (Dramatiq #827).
    """

    def __init__(
        self, resources: Resources, requests_wait: threading.Event, *, middleware: list[dramatiq.Middleware]
    ) -> None:
        super().__init__(middleware=middleware)
        self.resources = resources
        self.requests_wait = requests_wait
        self.encoder = StrictEncoder()
        self.idle_s = 1.0

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Register the queue. It is declared on RabbitMQ with our arguments at boot, and again when it goes missing."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A new consumer on a new connection. Raises ConnectionClosed, after which Dramatiq tries again."""
        url = self.resources.settings().rabbitmq_url.get_secret_value()
        self.idle_s = timeout / 1000
        try:
            connection = amqp.connect(
                amqp.parameters(url, name=f"worker.{queue_name}"),
                deadline_s=CONNECT_DEADLINE_S,
                stop=self.resources.stopping,
            )
            self.resources.topology().declare_one(connection, queue_name)
        except (TopologyError, AMQPError) as error:
            raise ConnectionClosed(error) from None
        consumer = Consumer(self, connection, queue_name, prefetch)
        if queue_name == WORK and self.resources.settings().queue_early_release:
            consumer.waiting_room = WaitingRoom(self.resources, self.requests_wait, connection, source=consumer)
        return consumer

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":
        """Publish a message and wait for the confirm. Raises PublishError; ValueError for a delay."""
        if delay is not None:
            raise ValueError("no delays: a wait is a copy in one of the delay queues (middleware/retry_schedule.py)")
        self.emit_before("enqueue", message, delay)
        self.resources.publisher().publish(message.queue_name, message.encode(), message_properties(message.message_id))
        self.emit_after("enqueue", message, delay)
        return message

    def close(self) -> None:
        """Close what the resources has opened; consumers close their own connections."""
        self.resources.close(timeout_s=5.0)
