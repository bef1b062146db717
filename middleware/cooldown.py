"""Rests what hit a limit, and goes on with another key at once."""

import logging
from collections.abc import Callable

from dramatiq import Broker

from gateway.errors import AuthenticationFailed, ProviderError, RateLimited, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease
from gateway.keys.probe import UNKNOWN_KEY
from gateway.reporting import sentry
from gateway.secrets import ApiKey
from middleware.attempt import JobAttempt, current_attempt
from middleware.errors import NoKey, Outage
from middleware.hook import Verdict
from middleware.key_selection import KeySelection

logger = logging.getLogger(__name__)


class Cooldown(Verdict[JobAttempt]):
    """`rotate` answers a refused call with the next key; `suspect` is told of one that the provider does not know.

    That is no retry: it does not touch `retry_count`, and it ends when no key is left.
    """

    kind = JobAttempt

    def __init__(self, keys: KeySelection, pool: Callable[[], KeyPool], suspect: Callable[[ApiKey], None]) -> None:
        self.keys = keys
        self.pool = pool
        self.suspect = suspect

    def after(self, broker: Broker, attempt: JobAttempt, error: BaseException | None) -> None:
        if isinstance(error, Outage) or (isinstance(error, NoKey) and error.refused):
            sentry.tell_operator("every_key_refused", str(error))

    def rotate(self, error: RateLimited | AuthenticationFailed) -> None:
        """Cool what `error` is about (key, account or model) and lease another key for the attempt that runs here.

        Raises NoKey when none is left; its text is the refusal of the last key where keys were refused.
        """
        attempt = current_attempt()
        if attempt.lease is None:
            raise LookupError("only an attempt with a key can change it")
        self._cool(attempt.lease, error)
        self.keys.release(attempt)
        try:
            attempt.lease = self.keys.acquire(attempt)
        except NoKey as no_key:
            if no_key.refused:
                raise NoKey(f"Authentication error: {error}", retry_in_s=no_key.retry_in_s, refused=True) from None
            no_key.called = True
            raise
        except Outage as outage:
            text = f"Authentication error: {error}"
            raise Outage(text, reason=outage.reason, code=outage.code) from None

    def _cool(self, lease: Lease, error: ProviderError) -> None:
        try:
            self.pool().cool(lease, error)
        except StoreUnavailable as unavailable:
            # The provider keeps refusing it, so the next request finds out again; no call is made without the store.
            logger.warning("Key %s does not cool down: %s", lease.key, unavailable)
            return
        logger.warning("Key %s: %s (%s) cools down: %s", lease.key, error.scope, error.reason, error)
        if error.reason == UNKNOWN_KEY:
            self.suspect(lease.key)
        if isinstance(error, AuthenticationFailed):
            sentry.tell_operator(error.reason, f"{error.scope} refused: {error}", about=str(lease.key))
