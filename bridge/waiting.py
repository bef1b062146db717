"""Early release: while a key is free, requests that wait for one are taken straight from their delay queues."""

import logging
import math
import threading
import time
from typing import Any

import pika
from dramatiq.errors import DecodeError
from pika.exceptions import ChannelClosedByBroker

from bridge.delivery import Delivery, Source
from bridge.wire import StrictEncoder
from gateway.errors import RequestRejected, StoreUnavailable
from gateway.keys.pool import Lease
from gateway.messages import Job
from gateway.rabbitmq.settling import Settling
from gateway.rabbitmq.topology import WORK
from gateway.resources import Resources
from middleware.attempt import JobAttempt, attempt_of

#: How often an idle worker looks for waiting requests, in seconds: where it knows of some, and where it does not, for
#: another process may have sent them to wait. A look is a round trip for each queue; deliveries wait for it.
LOOK_EVERY_S, LOOK_IDLE_S = 1.0, 5.0

#: The shortest pause between two looks, in seconds.
SHORTEST_PAUSE_S = 0.01

logger = logging.getLogger(__name__)


class WaitingRoom:
    """Hands out waiting requests, shortest wait first and in order, each together with the key it was released for.

    The request stays unacked in its delay queue until it is settled: after a crash it is back at its place. It has a
    lease before it is handed out, so no more are released than the keys can serve, by any number of workers.
    """

    def __init__(
        self,
        resources: Resources,
        requests_wait: threading.Event,
        connection: pika.BlockingConnection,
        *,
        source: Source,
    ) -> None:
        self.resources = resources
        self.requests_wait = requests_wait
        self.connection = connection
        self.source = source
        self.encoder = StrictEncoder()
        # A channel of its own: getting from a queue that is gone closes the channel, and with it every unsettled tag.
        self._channel: Any = None
        self._not_before = 0.0
        self._found_nobody_at = -math.inf

    def patience_s(self, longest_s: float) -> float:
        """How long the consumer may sleep before the next look, in seconds."""
        return min(longest_s, max(SHORTEST_PAUSE_S, self._next_look_at() - time.monotonic()))

    def next(self) -> Delivery | None:
        """The next waiting request with its lease, or None when no key is free or nobody waits."""
        if time.monotonic() < self._next_look_at() or not self.resources.publisher().ready:
            return None
        try:
            pause_s = self.resources.pool().ready_in_s()
            if pause_s > 0:
                self._pause(pause_s)
                return None
            return self._first_waiting()
        except StoreUnavailable as error:
            logger.warning("No early release now: %s", error)
            self._pause(LOOK_EVERY_S)
            return None

    def _next_look_at(self) -> float:
        every_s = LOOK_EVERY_S if self.requests_wait.is_set() else LOOK_IDLE_S
        return max(self._not_before, self._found_nobody_at + every_s)

    def _pause(self, seconds: float) -> None:
        self._not_before = time.monotonic() + min(seconds, LOOK_EVERY_S)

    def _first_waiting(self) -> Delivery | None:
        self.requests_wait.clear()  # before the look: who comes during it sets it again
        for queue in self.resources.topology().key_waits:
            method, _properties, body = self._get(queue)
            if method is not None:
                self.requests_wait.set()
                return self._release(queue, method.delivery_tag, body)
        self._found_nobody_at = time.monotonic()
        return None

    def _get(self, queue: str) -> tuple[Any, Any, bytes]:
        if self._channel is None or not self._channel.is_open:
            self._channel = self.connection.channel()
        try:
            found: tuple[Any, Any, bytes] = self._channel.basic_get(queue)
        except ChannelClosedByBroker as error:
            logger.warning("No early release from %s: %s", queue, error.reply_text)
            return None, None, b""
        return found

    def _release(self, queue: str, tag: int, body: bytes) -> Delivery | None:
        job, message = self._read(body)
        lease = self._lease(job) if job is not None else None
        if job is None or lease is None:
            # Not ours to judge here, or its model rests: its time will come, and then it is read like any other.
            self._channel.basic_nack(tag, requeue=True)
            self._pause(LOOK_EVERY_S)
            return None
        uncounted = job.model_copy(update={"retry_count": max(0, job.retry_count - 1)})
        channel = Settling(self._channel)
        released = message.copy(args=(uncounted,))
        delivery = Delivery(released, source=self.source, channel=channel, tag=tag, on_settle=self._give_lease_back)
        attempt = attempt_of(delivery)
        assert isinstance(attempt, JobAttempt)  # noqa: S101 - made of a job
        attempt.lease = lease
        logger.info("[%s] Released early from %s", job.request_id, queue)
        return delivery

    def _lease(self, job: Job) -> Lease | None:
        """A key for the job; None when it has to go back, whatever the reason."""
        try:
            grant = self.resources.pool().acquire(self._model(job))
        except StoreUnavailable as error:
            logger.warning("No early release now: %s", error)
            return None
        return grant if isinstance(grant, Lease) else None

    def _give_lease_back(self, delivery: Delivery) -> None:
        """End the lease of a delivery that was settled before key selection took it over: it was not used."""
        attempt = attempt_of(delivery)
        if isinstance(attempt, JobAttempt) and attempt.lease is not None:
            lease, attempt.lease = attempt.lease, None
            try:
                self.resources.pool().cancel(lease)
            except StoreUnavailable as error:
                logger.warning("Key %s is counted as used for one window: %s", lease.key, error)

    def _model(self, job: Job) -> str:
        try:
            return self.resources.provider().resolve_model(job.request.model)
        except RequestRejected:
            return ""  # it needs no key to be refused; the lease goes back unused

    def _read(self, body: bytes) -> tuple[Job | None, Any]:
        try:
            message = self.encoder.read(body, queue=WORK)
        except DecodeError:
            return None, None
        job = message.args[0]
        return (job, message) if isinstance(job, Job) else (None, None)
