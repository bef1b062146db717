"""Relays `gemini.requests` into the actor `generate`, pipelined: acked when RabbitMQ has confirmed the relayed copy."""

import hashlib
import logging
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from bridge.gate import Sender, admit
from bridge.wire import callback_message, work_message
from gateway.errors import InvalidMessage, PublishError, TopologyError
from gateway.messages import Failure, Job, Reply, Request
from gateway.rabbitmq import amqp
from gateway.rabbitmq.connection_calls import ConnectionCalls
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.settling import Settling
from gateway.rabbitmq.topology import DEAD_REQUESTS, WORK
from gateway.reporting.logs import request_id_var
from gateway.reporting.redaction import escape_controls
from gateway.resources import Resources
from middleware.outbox import message_properties

#: How long the loop waits for RabbitMQ before it looks whether it should stop, in seconds.
TICK_S = 0.5

#: How long a stop waits for the confirms of what is on its way, in seconds. Under Heroku's 30.
DRAIN_S = 20.0

#: How long a request that could not be relayed rests before it goes back to its queue, in seconds.
RETRY_S = 1.0

logger = logging.getLogger(__name__)


class Relay:
    """Consumes until `resources.stopping` is set, over as many connections as that takes.

    A delivery is acked when its outcome is confirmed: relayed, answered with an error envelope, or in the dead queue.
    Otherwise it stays where it is.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self._calls: Any = None
        self._channel: Any = None
        self._on_its_way: set[int] = set()
        self._cancelled = False

    def run(self, *, connect_deadline_s: float = 60.0) -> None:
        """Relay until asked to stop. Raises TopologyError when RabbitMQ stays away for `connect_deadline_s`."""
        while not self.resources.stopping.is_set():
            try:
                self._consume(connect_deadline_s)
            except AMQPError as error:
                logger.warning("Connection to RabbitMQ lost (%s): connecting again", type(error).__name__)
        logger.info("Stopped")

    def _consume(self, connect_deadline_s: float) -> None:
        settings = self.resources.settings()
        parameters = amqp.parameters(settings.rabbitmq_url.get_secret_value(), name="bridge.consumer")
        connection = amqp.connect(parameters, deadline_s=connect_deadline_s, stop=self.resources.stopping)
        try:
            self._calls, self._on_its_way, self._cancelled = ConnectionCalls(connection), set(), False
            tag = self._subscribe(connection)
            with suppress(ChannelClosedByBroker):  # told below, however it was noticed
                while not self.resources.stopping.is_set() and not self._cancelled and self._channel.is_open:
                    self._calls.serve(TICK_S)
            if not self._channel.is_open:
                # pika tells only those who use a closed channel, and this loop would wait on it for ever.
                logger.warning(
                    "RabbitMQ closed the channel of %s (its log says why): opening it again", settings.request_queue
                )
            elif self._cancelled:
                logger.warning("The queue %s was deleted: declaring it again", settings.request_queue)
            else:
                self._drain(tag)
        finally:
            if connection.is_open:
                connection.close()

    def _subscribe(self, connection: pika.BlockingConnection) -> str:
        """Consume on a channel of its own; returns the consumer tag. Raises TopologyError when that is refused."""
        settings = self.resources.settings()
        try:
            self.resources.topology().declare_one(connection, settings.request_queue)
            self._channel = connection.channel()
            self._channel.basic_qos(prefetch_count=settings.worker_prefetch_count)
            self._channel.add_on_cancel_callback(self._on_cancel)
            tag: str = self._channel.basic_consume(settings.request_queue, self._on_message)
        except ChannelClosedByBroker as error:
            raise TopologyError(
                f"RabbitMQ refused to let us consume {settings.request_queue}: {error.reply_text}"
            ) from None
        logger.info("Relaying %s", settings.request_queue)
        return tag

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def _drain(self, tag: str) -> None:
        """Stop fetching, and finish what is on its way."""
        self._channel.basic_cancel(tag)
        deadline = time.monotonic() + DRAIN_S
        while self._on_its_way and self._channel.is_open and time.monotonic() < deadline:
            self._calls.serve(TICK_S)

    def _on_message(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        tag: int = method.delivery_tag
        self._on_its_way.add(tag)
        sent = self._send(properties, body, redelivered=bool(method.redelivered))
        sent.add_done_callback(partial(self._sent, self._calls, channel, tag))

    def _send(self, properties: pika.BasicProperties, body: bytes, *, redelivered: bool) -> "Future[None]":
        sender = Sender(
            request_id=_short(properties.correlation_id) or _short(properties.message_id),
            reply_to=_short(properties.reply_to),
        )
        try:
            request = admit(
                body,
                sender,
                default_callback=self.resources.settings().response_queue,
                refusal=self.resources.topology().refusal,
            )
        except InvalidMessage as error:
            return self._reject(error, body)
        return self._relay(request, redelivered=redelivered)

    def _relay(self, request: Request, *, redelivered: bool) -> "Future[None]":
        request_id_var.set(request.request_id)
        logger.info("Received request (retry_count=%d)", request.retry_count)
        request_id_var.set(None)
        message = work_message(Job.of(request, received_at=time.time(), redelivered=redelivered))
        return self.resources.publisher().submit(WORK, message.encode(), message_properties(message.message_id))

    def _reject(self, error: InvalidMessage, body: bytes) -> "Future[None]":
        """Answer the sender where one can be answered, else keep the message for an operator."""
        request_id_var.set(error.request_id)
        logger.warning("Rejected: %s", escape_controls(str(error), 500))
        request_id_var.set(None)
        if error.callback_queue is None:
            properties = dead_letter(
                reason=str(error),
                code=error.code,
                source=self.resources.settings().request_queue,
                request_id=error.request_id,
            )
            return self.resources.publisher().submit(DEAD_REQUESTS, body, properties)
        envelope = Failure.of(error, request_id=error.request_id, processing_time_ms=0)
        message = callback_message(Reply.of(envelope, queue=error.callback_queue, work_id=_work_id(body)))
        return self.resources.publisher().submit(
            message.queue_name, message.encode(), message_properties(message.message_id)
        )

    def _sent(self, calls: ConnectionCalls, channel: Any, tag: int, sent: "Future[None]") -> None:
        """Runs on the publisher's thread: the ack belongs to the thread and the channel of the delivery."""
        error = sent.exception()
        if error is not None:
            level = logging.WARNING if isinstance(error, PublishError) else logging.ERROR
            logger.log(level, "Not relayed, it stays in the queue: %s", error)
        try:
            calls.call_soon(partial(self._settle, channel, tag, confirmed=error is None))
        except AMQPError:
            logger.info("The connection ended before a request was acked: it will come again")

    def _settle(self, channel: Any, tag: int, *, confirmed: bool) -> None:
        """Ack what is confirmed, give back the rest. The only line of the bridge that acks."""
        if channel is not self._channel or not channel.is_open:
            return
        self._on_its_way.discard(tag)
        if confirmed:
            Settling(channel).basic_ack(tag)
        else:
            # Not at once: what RabbitMQ refuses now would come back and be refused again, as fast as it can loop.
            channel.connection.call_later(RETRY_S, partial(_give_back, channel, tag))


def _give_back(channel: Any, tag: int) -> None:
    if channel.is_open:
        channel.basic_nack(tag, requeue=True)


def _short(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 255 else None  # noqa: PLR2004 - AMQP's short string


def _work_id(body: bytes) -> str:
    """Names a rejected message by its bytes, so that a redelivery is answered with the same `message_id`."""
    return f"rejected/{hashlib.sha256(body).hexdigest()}"
