"""The early door: while a key is free, requests that wait for one are taken straight from their delay queues."""

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from dramatiq.errors import DecodeError

from bridge.delivery import Delivered, Delivery
from bridge.wire import StrictEncoder
from gateway.errors import RequestRejected, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease
from gateway.messages import Job
from gateway.providers import Provider
from gateway.rabbitmq.publisher import Publisher
from gateway.rabbitmq.topology import WORK, Topology
from middleware.attempt import JobAttempt, attempt_of

#: How often an idle worker looks for waiting requests, in seconds: where it knows of some, and where it does not, for
#: another process may have sent them to wait. A look is a round trip for each queue; deliveries wait for it.
LOOK_EVERY_S, LOOK_IDLE_S = 1.0, 5.0

#: The shortest pause between two looks, in seconds.
SHORTEST_PAUSE_S = 0.01

logger = logging.getLogger(__name__)


class Getter(Protocol):
    """Takes one message from a queue, None when it has none now."""

    def get(self, queue: str) -> Delivery | None: ...


class WaitingDoor:
    """Hands out waiting requests, shortest wait first and in order, each together with the key it was released for.

    The request stays unacked in its delay queue until it is settled: after a crash it is back at its place. It has a
    lease before it is handed out, so no more are released than the keys can serve, by any number of workers.
    """

    def __init__(
        self,
        pool: Callable[[], KeyPool],
        provider: Callable[[], Provider],
        topology: Callable[[], Topology],
        publisher: Callable[[], Publisher],
        requests_wait: threading.Event,
    ) -> None:
        self.pool = pool
        self.provider = provider
        self.topology = topology
        self.publisher = publisher
        self.requests_wait = requests_wait
        self._encoder = StrictEncoder()
        self._not_before = 0.0
        self._found_nobody_at = -math.inf

    def patience_s(self, longest_s: float) -> float:
        """How long the consumer may sleep before the next look, in seconds."""
        return min(longest_s, max(SHORTEST_PAUSE_S, self._next_look_at() - time.monotonic()))

    def next(self, queues: Getter) -> Delivered | None:
        """The next waiting request with its lease, or None when no key is free or nobody waits."""
        if time.monotonic() < self._next_look_at() or not self.publisher().ready:
            return None
        try:
            pause_s = self.pool().ready_in_s()
            if pause_s > 0:
                self._pause(pause_s)
                return None
            return self._first_waiting(queues)
        except StoreUnavailable as error:
            logger.warning("No early release now: %s", error)
            self._pause(LOOK_EVERY_S)
            return None

    def rest(self) -> None:
        """Look for nobody for a while."""
        self._pause(LOOK_EVERY_S)

    def _next_look_at(self) -> float:
        every_s = LOOK_EVERY_S if self.requests_wait.is_set() else LOOK_IDLE_S
        return max(self._not_before, self._found_nobody_at + every_s)

    def _pause(self, seconds: float) -> None:
        self._not_before = time.monotonic() + min(seconds, LOOK_EVERY_S)

    def _first_waiting(self, queues: Getter) -> Delivered | None:
        self.requests_wait.clear()  # before the look: who comes during it sets it again
        for queue in self.topology().key_waits:
            delivery = queues.get(queue)
            if delivery is not None:
                self.requests_wait.set()
                return self._release(delivery)
        self._found_nobody_at = time.monotonic()
        return None

    def _release(self, delivery: Delivery) -> Delivered | None:
        try:
            message = self._encoder.read(delivery.body, queue=WORK)
        except DecodeError:
            message = None
        job = message.args[0] if message is not None else None
        lease = self._lease(job) if isinstance(job, Job) else None
        if message is None or not isinstance(job, Job) or lease is None:
            # Not ours to judge here, or its model rests: its time will come, and then it is read like any other.
            delivery.settle(confirmed=False)
            self._pause(LOOK_EVERY_S)
            return None
        uncounted = job.model_copy(update={"retry_count": max(0, job.retry_count - 1)})
        released = Delivered(message.copy(args=(uncounted,)), delivery)
        attempt = attempt_of(released)
        assert isinstance(attempt, JobAttempt)  # noqa: S101 - made of a job
        attempt.lease = lease
        attempt.at_end.append(partial(self._give_lease_back, attempt))
        logger.info("[%s] Released early from %s", job.request_id, delivery.queue)
        return released

    def _lease(self, job: Job) -> Lease | None:
        """A key for the job; None when it has to go back, whatever the reason."""
        try:
            grant = self.pool().acquire(self._model(job))
        except StoreUnavailable as error:
            logger.warning("No early release now: %s", error)
            return None
        return grant if isinstance(grant, Lease) else None

    def _give_lease_back(self, attempt: JobAttempt) -> None:
        """End the lease of a request that was settled before key selection took it over: it was not used."""
        if attempt.lease is not None:
            lease, attempt.lease = attempt.lease, None
            try:
                self.pool().cancel(lease)
            except StoreUnavailable as error:
                logger.warning("Key %s is counted as used for one window: %s", lease.key, error)

    def _model(self, job: Job) -> str:
        try:
            return self.provider().resolve_model(job.request.model)
        except RequestRejected:
            return ""  # it needs no key to be refused; the lease goes back unused
