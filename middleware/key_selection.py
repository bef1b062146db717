"""Takes a key before the actor runs, and gives it back after."""

import logging
import uuid
from collections.abc import Callable

from gateway import structured
from gateway.errors import ErrorCode, RequestRejected, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease, Unavailable
from gateway.messages import Job, Request
from gateway.providers import Provider
from gateway.secrets import ApiKey
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

    def __init__(
        self, pool: Callable[[], KeyPool], provider: Callable[[], Provider], suspect: Callable[[ApiKey, str], None]
    ) -> None:
        self.pool = pool
        self.provider = provider
        self.suspect = suspect

    def around(self, attempt: JobAttempt) -> Around:
        self._admit(attempt.job.request)
        attempt.lease = attempt.lease or self.acquire(attempt)
        yield
        self.release(attempt)

    def acquire(self, attempt: JobAttempt) -> Lease:
        """A key that may be used now for the job's model.

        Raises NoKey; Outage where all keys are refused and that is a guess; Rejected for an impossible model name;
        Parked while the store is away: without it the limits would be a guess.
        """
        attempt.lease_id = attempt.lease_id or uuid.uuid4().hex
        try:
            grant = self.pool().acquire(
                self._model(attempt.job),
                lane=attempt.job.lane,
                lease_id=attempt.lease_id,
                without=attempt.passed_over,
            )
        except StoreUnavailable as error:
            logger.log(logging.DEBUG if attempt.looks else logging.ERROR, "Waiting for the key store: %s", error)
            raise attempt.park("the key store is away", after_s=STORE_RETRY_S, keeps_room=True) from None
        attempt.lease_id = None
        if isinstance(grant, Unavailable):
            if grant.refused and self._is_a_guess():
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

    def _is_a_guess(self) -> bool:
        """Whether some key is refused as far as a status says, and not by the provider's word; it is asked then.

        OpenRouter has answered 401 to healthy keys for half an hour. Whoever finds out has it asked: the process that
        has made the guess may be gone.
        """
        try:
            guesses = self.pool().guesses()
        except StoreUnavailable:
            return True
        for key, reason in guesses.items():
            self.suspect(key, reason)
        return bool(guesses)

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
