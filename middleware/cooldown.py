"""Rests what hit a limit, and goes on at once: with another key, or with a call that the account can pay for."""

import logging
from collections.abc import Callable

from dramatiq import Broker

from gateway.errors import AuthenticationFailed, CallTooLarge, ProviderError, RateLimited, StoreUnavailable
from gateway.keys.pool import KeyPool, Lease
from gateway.messages import Request
from gateway.reporting import sentry
from gateway.secrets import ApiKey
from middleware.attempt import JobAttempt, current_attempt
from middleware.errors import NoKey, Outage
from middleware.hook import Verdict
from middleware.key_selection import KeySelection

#: An answer that is cut at fewer tokens than this is of no use to anybody.
USEFUL_TOKENS = 256

#: How often one attempt asks for less. The credits that are left change while others use them.
MOST_REDUCTIONS = 3

logger = logging.getLogger(__name__)


class Cooldown(Verdict[JobAttempt]):
    """`rotate` answers a refused call with the next key, `afford` one that is too dear with a smaller one, or that key.

    That is no retry: it does not touch `retry_count`, and it ends when no key is left. `suspect` is told of a key that
    rests by a guess.
    """

    kind = JobAttempt

    def __init__(self, keys: KeySelection, pool: Callable[[], KeyPool], suspect: Callable[[ApiKey, str], None]) -> None:
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
        self._lease_again(attempt, error)

    def afford(self, request: Request, error: CallTooLarge) -> Request:
        """The request with a cap that the account can pay for, and a lease for it; nothing rests.

        Where such a call is of no use, the request as it is, and a lease of a key that may pay for it. Raises `error`
        when no key is left to ask, and what `rotate` raises when none is free.
        """
        attempt = current_attempt()
        sentry.tell_operator("credits_low", str(error))
        tokens, parameters = error.affordable_tokens, request.parameters
        if tokens is None or tokens < USEFUL_TOKENS:
            self._pass_over(attempt, error)
            return request
        if attempt.reductions == MOST_REDUCTIONS:
            raise error
        attempt.reductions += 1
        logger.warning("Asking for %d tokens at most: %s", tokens, error)
        self._lease_again(attempt, error)
        cap = min(tokens, parameters.max_output_tokens or tokens)
        return request.model_copy(update={"parameters": parameters.model_copy(update={"max_output_tokens": cap})})

    def _pass_over(self, attempt: JobAttempt, error: CallTooLarge) -> None:
        """Smaller calls are served with the key, so it does not rest; this attempt asks with it no more."""
        if attempt.lease is None:
            raise LookupError("only an attempt with a key can change it")
        key = attempt.lease.key
        attempt.passed_over |= {key.digest} if error.is_of_key else self.pool().siblings(key)
        if not self.pool().has_other(attempt.passed_over):
            raise error
        logger.warning("Key %s is passed over: %s", key, error)
        self._lease_again(attempt, error)

    def _lease_again(self, attempt: JobAttempt, error: ProviderError) -> None:
        """Every call is one use of a key."""
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
        if isinstance(error, AuthenticationFailed):
            if not (error.is_named or error.retry_after_s):
                self.suspect(lease.key, error.reason)
            sentry.tell_operator(error.reason, f"{error.scope} refused: {error}", about=str(lease.key))
