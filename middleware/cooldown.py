"""Rests what hit a limit, and goes on with another key at once."""

import logging

from dramatiq import Broker, Middleware
from dramatiq.broker import MessageProxy

from gateway.errors import AuthenticationFailed, ProviderError, RateLimited, StoreUnavailable
from gateway.keys.pool import Lease
from gateway.keys.probe import UNKNOWN_KEY
from gateway.reporting import sentry
from gateway.runtime import Runtime
from middleware.attempt import current_attempt
from middleware.errors import NoKey, Outage
from middleware.key_selection import acquire, release

logger = logging.getLogger(__name__)


class Cooldown(Middleware):
    """`rotate` answers a refused call with the next key; it is bound to the runtime at construction.

    That is no retry: it does not touch `retry_count`, and it ends when no key is left.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        if isinstance(exception, Outage) or (isinstance(exception, NoKey) and exception.refused):
            sentry.tell_operator("every_key_refused", str(exception))

    def rotate(self, error: RateLimited | AuthenticationFailed) -> Lease:
        """Cool what `error` is about (key, account or model) and lease another key.

        Raises NoKey when none is left; its text is the refusal of the last key where keys were refused.
        """
        attempt = current_attempt()
        if attempt.job is None or attempt.lease is None:
            raise LookupError("only an attempt with a key can change it")
        self._cool(attempt.lease, error)
        release(self.runtime, attempt)
        try:
            attempt.lease = acquire(self.runtime, attempt.job)
        except NoKey as no_key:
            if no_key.refused:
                raise NoKey(f"Authentication error: {error}", retry_in_s=no_key.retry_in_s, refused=True) from None
            raise
        except Outage as outage:
            text = f"Authentication error: {error}"
            raise Outage(text, reason=outage.reason, code=outage.code) from None
        return attempt.lease

    def _cool(self, lease: Lease, error: ProviderError) -> None:
        try:
            self.runtime.pool.cool(lease, error)
        except StoreUnavailable as unavailable:
            # The provider keeps refusing it, so the next request finds out again; no call is made without the store.
            logger.warning("Key %s does not cool down: %s", lease.key, unavailable)
            return
        logger.warning("Key %s: %s (%s) cools down: %s", lease.key, error.scope, error.reason, error)
        if error.reason == UNKNOWN_KEY and self.runtime.prober is not None:
            self.runtime.prober.suspect(lease.key)
        if isinstance(error, AuthenticationFailed):
            sentry.tell_operator(error.reason, f"{error.scope} refused: {error}", about=str(lease.key))
