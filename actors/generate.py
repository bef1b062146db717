"""One request, one answer: the call to the provider."""

import logging
import time

import dramatiq

from actors.broker import cooldown, runtime
from gateway.errors import AuthenticationFailed, ErrorCode, ProviderError, RateLimited, UpstreamFailed
from gateway.messages import Completion, Job
from gateway.rabbitmq.topology import WORK
from gateway.reporting import sentry
from middleware.attempt import Attempt, current_attempt

logger = logging.getLogger(__name__)


@dramatiq.actor(
    queue_name=WORK,
    on_success="publish_success",
    on_failure="publish_error",
    throws=(ProviderError,),  # expected: logged by name and not with a traceback
)
def generate(job: Job) -> None:
    """Call the provider with the leased key, and with another key at once when that one is refused.

    The completion is left in the attempt, from where the hooks finish, store and publish it. Raises ProviderError or
    NoKey; the retry schedule decides what becomes of the job then.
    """
    attempt = current_attempt()
    while attempt.completion is None:
        try:
            attempt.completion = _call(job)
        except (RateLimited, AuthenticationFailed) as error:
            cooldown.rotate(error)


def _time_left_s(attempt: Attempt) -> float:
    """Seconds until the deadline that all calls of this attempt share; the ledger's lease ends after it."""
    if attempt.deadline is None:
        attempt.deadline = time.monotonic() + runtime.settings.request_timeout_seconds
    left_s = attempt.deadline - time.monotonic()
    if left_s <= 0:
        raise UpstreamFailed("No key was accepted in time", reason="deadline", code=ErrorCode.TIMEOUT)
    return left_s


def _call(job: Job) -> Completion:
    attempt = current_attempt()
    if attempt.lease is None:
        raise LookupError("no key was leased: the actor runs below KeySelection only")
    attempt.called = True
    with sentry.traced("generate"):
        completion = runtime.provider.complete(job.request, attempt.lease.key, deadline_s=_time_left_s(attempt))
    logger.info(
        "Answered by %s with key %s after %d ms (%d tokens)",
        completion.model_used,
        attempt.lease.key,
        attempt.elapsed_ms,
        completion.usage.total_tokens,
    )
    return completion
