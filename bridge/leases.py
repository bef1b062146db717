"""A key for a request before it is handed out."""

import logging
from collections.abc import Callable
from functools import partial

from bridge.delivery import Delivered
from gateway.errors import RequestRejected, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease
from gateway.messages import Job
from gateway.providers import Provider
from middleware.attempt import JobAttempt, attempt_of

logger = logging.getLogger(__name__)


class NoFreeKey(Exception):
    """There was one a moment ago, and somebody else has taken it; or there is none for this lane."""

    def __init__(self, retry_in_s: float) -> None:
        self.retry_in_s = retry_in_s


class Leases:
    """Gives a message the lease that it is handed out with; it goes back unless key selection takes it over."""

    def __init__(self, pool: Callable[[], KeyPool], provider: Callable[[], Provider]) -> None:
        self.pool = pool
        self.provider = provider

    def give(self, message: Delivered, job: Job) -> bool:
        """Lease a key for the request; False when its model rests. Raises NoFreeKey when there is none for its lane.

        One whose deadline has passed needs none to be told so.
        """
        if job.time_left_s <= 0:
            return True
        grant = self.pool().acquire(self.model_of(job), lane=job.lane)
        if not isinstance(grant, Lease):
            if (retry_in_s := self.pool().ready_in_s(lane=job.lane)) > 0:
                raise NoFreeKey(retry_in_s)
            return False
        attempt = attempt_of(message)
        assert isinstance(attempt, JobAttempt)  # noqa: S101 - made of a job
        attempt.lease = grant
        message.give_lease_back = partial(self._give_back, attempt)
        return True

    def model_of(self, job: Job) -> str:
        try:
            return self.provider().resolve_model(job.request.model)
        except RequestRejected:
            return ""  # it needs no key to be refused; the lease goes back unused

    def _give_back(self, attempt: JobAttempt) -> None:
        """End the lease of a request that was settled or parked before key selection took it over: it was not used."""
        if attempt.lease is not None:
            lease, attempt.lease = attempt.lease, None
            try:
                self.pool().cancel(lease)
            except StoreUnavailable as error:
                logger.warning("Key %s is counted as used for one window: %s", lease.key, error)
