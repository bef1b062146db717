"""The door for other people's JSON: a request becomes a message of the actor `generate`."""

import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from dramatiq import Message

from bridge.delivery import Delivered, Delivery
from bridge.door import Door
from bridge.expiry import expires_at
from bridge.gate import Sender, admit
from bridge.wire import StrictEncoder, callback_message, work_message
from gateway.errors import InvalidMessage
from gateway.lanes import lane_of
from gateway.messages import Caller, Cancel, Failure, Job, Reply, Request, encode
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.request_reply import is_of_a_client, queue_of
from gateway.rabbitmq.topology import CANCELS, DEAD_REQUESTS, Topology
from gateway.reporting import tracing
from gateway.reporting.logs import facts, request_id_var
from gateway.reporting.redaction import escape_controls
from gateway.reporting.tracing import Messaging
from gateway.settings import Settings
from gateway.tags import tag_of
from middleware.outbox import message_properties

logger = logging.getLogger(__name__)


class RequestDoor(Door):
    """A request that comes for the first time runs here and now, and stays unacked until its outcome is confirmed.

    One that comes again is relayed to `gemini.generate`, and acked when it is confirmed there: that queue counts
    deliveries, so a request that kills workers comes to an end. With `relay_all` every request is relayed. One of the
    batch lane is sorted out, into `gemini.batch`, whether it comes again or not; and with FAIRNESS_FIELD every request,
    into the queue of its tag. A cancel is relayed to `gemini.cancels`: a relay in a process of its own has no ledger.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        topology: Callable[[], Topology],
        publisher: Callable[[], Publisher],
        *,
        relay_all: bool = False,
    ) -> None:
        super().__init__(publisher, dead_queue=DEAD_REQUESTS)
        self.settings = settings
        self.topology = topology
        self.relay_all = relay_all
        self._encoder = StrictEncoder()

    @property
    def queue(self) -> str:
        return self.settings().request_queue

    def open(self, delivery: Delivery) -> Delivered | None:
        try:
            admitted = self._admitted(delivery)
        except InvalidMessage as error:
            self._reject(delivery, error)
            return None
        if isinstance(admitted, Cancel):
            self.move(delivery, CANCELS, encode(admitted), message_properties(str(uuid.uuid4())))
            return None
        count = admitted.retry_count
        fields = facts("received", retry_count=count)
        _log(logging.INFO, admitted.request_id, "Received request (retry_count=%d)", count, fields)
        return self._accept(delivery, admitted)

    def _admitted(self, delivery: Delivery) -> Request | Cancel:
        properties = delivery.properties
        sender = Sender(
            request_id=_name(properties.correlation_id) or _name(properties.message_id),
            reply_to=_short(properties.reply_to),
            content_type=_short(properties.content_type),
            content_encoding=_short(properties.content_encoding),
        )
        return admit(
            delivery.body,
            sender,
            default_callback=self.settings().response_queue,
            refusal=self.topology().refusal,
            any_parameters=self.settings().parameters_unknown == "ignore",
        )

    def _accept(self, delivery: Delivery, request: Request) -> Delivered | None:
        now = time.time()
        job = Job.of(
            request,
            received_at=now,
            redelivered=delivery.redelivered,
            caller=self._caller(delivery, request.callback_queue),
            expires_at=expires_at(request, delivery.properties, received_at=now),
            lane=lane_of(request.priority, delivery.properties.priority),
        )
        if tracing.is_on():
            self._trace(delivery, job)
        message = work_message(job)
        entry = self.topology().entry(job.lane, tag_of(request, self.settings().fairness_field))
        if entry is not None:
            delivery.sort_into(entry)
        elif not delivery.redelivered and not self.relay_all:
            return Delivered(message, delivery)
        self._send(delivery, message, entry)
        return None

    def _trace(self, delivery: Delivery, job: Job) -> None:
        came = Messaging(delivery.queue, job.request_id, len(delivery.body))
        with tracing.span("receive", came, of=job.caller.trace):
            pass  # its time is when it was read

    def _reject(self, delivery: Delivery, error: InvalidMessage) -> None:
        """Answer the sender where one can be answered, else keep the message for an operator."""
        fields = facts("rejected", error_code=error.code)
        _log(logging.WARNING, error.request_id, "Rejected: %s", escape_controls(str(error), 500), fields)
        if error.callback_queue is None:
            self.to_dead_queue(delivery, reason=str(error), code=error.code, request_id=error.request_id)
            return
        envelope = Failure.of(error, request_id=error.request_id, processing_time_ms=0)
        reply = Reply.of(
            envelope,
            queue=error.callback_queue,
            work_id=_work_id(delivery.body),
            caller=self._caller(delivery, error.callback_queue),
        )
        self._send(delivery, callback_message(reply))

    def _caller(self, delivery: Delivery, queue: str) -> Caller:
        """Who asks; a client waits where the queue is its own, and not one that outlives it."""
        properties = delivery.properties
        is_its_own = is_of_a_client(queue) or queue == queue_of(_short(properties.reply_to) or "")
        waits = is_its_own and not self.topology().needs(queue)
        return Caller.of(properties.correlation_id, waits=waits, headers=properties.headers)

    def _send(self, delivery: Delivery, message: "Message[None]", queue: str | None = None) -> None:
        body = self._encoder.encode(message.asdict())
        self.move(delivery, queue or message.queue_name, body, message_properties(message.message_id))


def _log(level: int, request_id: str | None, text: str, fact: object, fields: dict[str, Any] | None = None) -> None:
    request_id_var.set(request_id)
    logger.log(level, text, fact, extra=fields)
    request_id_var.set(None)


def _short(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 255 else None  # noqa: PLR2004 - AMQP's short string


def _name(value: object) -> str | None:
    """An id as text; some clients write the bytes of a UUID."""
    return _short(value.hex() if isinstance(value, bytes) else value)


def _work_id(body: bytes) -> str:
    """Names a rejected message by its bytes, so that a redelivery is answered with the same `message_id`."""
    return f"rejected/{hashlib.sha256(body).hexdigest()}"
