"""Takes a key before the actor runs, and gives it back after."""

import logging
import uuid
from collections.abc import Callable

from gateway import structured
from gateway.errors import ErrorCode, RequestRejected, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease, Unavailable
from gateway.keys.probe import UNKNOWN_KEY
from gateway.messages import Job, Request
from gateway.providers import Provider
from middleware.attempt import JobAttempt
from middleware.errors import NoKey, Outage, Rejected
from middleware.hook import Around, Hook

#: How long to wait before the store is asked again after it could not be reached.
STORE_RETRY_S = 2.0

logger = logging.getLogger(__name__)


class KeySelection(Hook[JobAttempt]):
    """The actor runs with a leased key in its attempt, or not at all; what cannot be asked takes none.

    A delivery that was released early brings the lease that it was released for.
    """

    kind = JobAttempt

    def __init__(self, pool: Callable[[], KeyPool], provider: Callable[[], Provider]) -> None:
        self.pool = pool
        self.provider = provider

    def around(self, attempt: JobAttempt) -> Around:
        self._admit(attempt.job.request)
        attempt.lease = attempt.lease or self.acquire(attempt)
        yield
        self.release(attempt)

    def acquire(self, attempt: JobAttempt) -> Lease:
        """A key that may be used now for the job's model.

        Raises NoKey; Outage where all of several keys are refused; Rejected for an impossible model name; Parked while
        the store is away: without it the limits would be a guess.
        """
        attempt.lease_id = attempt.lease_id or uuid.uuid4().hex
        try:
            grant = self.pool().acquire(self._model(attempt.job), lease_id=attempt.lease_id)
        except StoreUnavailable as error:
            logger.log(logging.DEBUG if attempt.looks else logging.ERROR, "Waiting for the key store: %s", error)
            raise attempt.park("the key store is away", after_s=STORE_RETRY_S, keeps_room=True) from None
        attempt.lease_id = None
        if isinstance(grant, Unavailable):
            if grant.refused and self._looks_like_an_outage():
                text = "Authentication error: the provider refuses every key"
                raise Outage(text, reason="every_key_refused", code=ErrorCode.AUTHENTICATION)
            text = "Authentication error: the provider refused every key" if grant.refused else "No key available"
            raise NoKey(text, retry_in_s=grant.retry_in_s, refused=grant.refused)
        logger.debug("Using key %s", grant.key)
        return grant

    def release(self, attempt: JobAttempt) -> None:
        """End the attempt's lease, if it has one; one that made no call gives its place in the window back."""
        if attempt.lease is None:
            return
        lease, called = attempt.lease, attempt.called
        attempt.lease, attempt.called = None, False
        try:
            self.pool().release(lease) if called else self.pool().cancel(lease)
        except StoreUnavailable as error:
            logger.warning("Key %s is counted as used for one window: %s", lease.key, error)

    def _looks_like_an_outage(self) -> bool:
        """Whether two or more keys are refused for what they are: that they all went bad at once is unlikely.

        OpenRouter has answered 401 to healthy keys for half an hour. Accounts without credit are no outage.
        """
        try:
            rests = [status.rest for status in self.pool().status()]
        except StoreUnavailable:
            return False
        return len(rests) > 1 and all(rest is not None and rest.reason == UNKNOWN_KEY for rest in rests)

    def _admit(self, request: Request) -> None:
        try:
            structured.admit(request)
            self.provider().check(request)
        except RequestRejected as error:
            raise Rejected(str(error), reason=error.reason, code=error.code) from None

    def _model(self, job: Job) -> str:
        try:
            return self.provider().resolve_model(job.request.model)
        except RequestRejected as error:
            raise Rejected(str(error), reason=error.reason, code=error.code) from None
