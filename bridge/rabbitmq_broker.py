"""Dramatiq's RabbitMQ broker with our settlement: confirmed publishes, no delay queues in worker memory."""

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker as StockBroker
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import MiddlewareError
from pika.exceptions import AMQPError

from bridge.consumer import Consumer
from bridge.waiting import WaitingRoom
from bridge.wire import StrictEncoder
from gateway.errors import TopologyError
from gateway.rabbitmq import amqp
from gateway.rabbitmq.topology import WORK
from gateway.runtime import Runtime
from middleware.errors import HookFailed
from middleware.outbox import message_properties

#: How long a consumer waits for RabbitMQ before Dramatiq makes a new one, in seconds.
CONNECT_DEADLINE_S = 30.0


class RabbitmqBroker(StockBroker):
    """Connects nowhere until it consumes or enqueues, and then through the runtime's settings.

    `enqueue` returns when RabbitMQ has confirmed the message. A delay is refused: Dramatiq would hold the message
    unacked in a worker's memory, where waits over RabbitMQ's consumer timeout are torn away (Dramatiq #827).
    """

    def __init__(self, runtime: Runtime, *, middleware: list[dramatiq.Middleware]) -> None:
        super().__init__(middleware=middleware)
        self.runtime = runtime
        self.encoder = StrictEncoder()
        self.idle_s = 1.0

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As Dramatiq's, but a hook that fails before the actor fails the delivery.

        Dramatiq swallows what is no `MiddlewareError`, and runs the actor without the hook: without a key's turn, or
        without an entry in the ledger.
        """
        if signal != "process_message":
            super().emit_before(signal, *args, **kwargs)
            return
        for middleware in self.middleware:
            try:
                middleware.before_process_message(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception as error:
                raise HookFailed(f"{type(middleware).__name__} has failed before the actor") from error

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Register the queue. It is declared on RabbitMQ with our arguments at boot, and again when it goes missing."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """A new consumer on a new connection. Raises ConnectionClosed, after which Dramatiq tries again."""
        url = self.runtime.settings.rabbitmq_url.get_secret_value()
        self.idle_s = timeout / 1000
        try:
            connection = amqp.connect(
                amqp.parameters(url, name=f"worker.{queue_name}"),
                deadline_s=CONNECT_DEADLINE_S,
                stop=self.runtime.stopping,
            )
            self.runtime.topology.declare_one(connection, queue_name)
        except (TopologyError, AMQPError) as error:
            raise ConnectionClosed(error) from None
        consumer = Consumer(self, connection, queue_name, prefetch)
        if queue_name == WORK and self.runtime.settings.queue_early_release:
            consumer.waiting_room = WaitingRoom(self.runtime, connection, source=consumer)
        return consumer

    def enqueue(self, message: "dramatiq.Message[Any]", *, delay: int | None = None) -> "dramatiq.Message[Any]":
        """Publish a message and wait for the confirm. Raises PublishError; ValueError for a delay."""
        if delay is not None:
            raise ValueError("no delays: a wait is a copy in one of the delay queues (middleware/retry_schedule.py)")
        self.emit_before("enqueue", message, delay)
        self.runtime.publisher.publish(message.queue_name, message.encode(), message_properties(message.message_id))
        self.emit_after("enqueue", message, delay)
        return message

    def close(self) -> None:
        """Close what the runtime has opened; consumers close their own connections."""
        self.runtime.close(timeout_s=5.0)
