"""One request, one answer: the call to the provider."""

import logging
import time

import dramatiq

from actors.broker import cooldown, partial_answers, provider, settings, usage
from gateway import structured
from gateway.errors import (
    AuthenticationFailed,
    CallTooLarge,
    ErrorCode,
    ProviderError,
    RateLimited,
    Unwanted,
    UpstreamFailed,
)
from gateway.messages import Completion, Job, Request
from gateway.rabbitmq.topology import WORK
from gateway.reporting import tracing
from gateway.reporting.logs import facts
from middleware.attempt import JobAttempt, current_attempt

logger = logging.getLogger(__name__)


@dramatiq.actor(
    queue_name=WORK,
    on_success="publish_success",
    on_failure="publish_error",
    throws=(ProviderError, Unwanted),  # expected: logged by name and not with a traceback
)
def generate(job: Job) -> None:
    """Call the provider with the leased key; at once with another one when that is refused, or for less that is paid.

    All calls together have one deadline, that of the request if it is the earlier one. The completion is left in the
    attempt, from where the hooks store and publish it. Raises ProviderError or NoKey; the retry schedule decides what
    becomes of the job then. Raises Unwanted where a cancel has ended the call.
    """
    attempt = current_attempt()
    deadline = time.monotonic() + min(settings().request_timeout_seconds, job.time_left_s)
    request = job.request
    while attempt.completion is None:
        try:
            attempt.completion = _call(request, attempt, deadline - time.monotonic())
        except (RateLimited, AuthenticationFailed) as error:
            cooldown.rotate(error)
        except CallTooLarge as error:
            request = cooldown.afford(request, error)


def _call(request: Request, attempt: JobAttempt, time_left_s: float) -> Completion:
    if attempt.lease is None:
        raise LookupError("no key was leased: the actor runs below KeySelection only")
    if time_left_s <= 0:
        raise UpstreamFailed("No key was accepted in time", reason="deadline", code=ErrorCode.TIMEOUT)
    attempt.called = True
    begun = time.monotonic()
    try:
        with (
            tracing.span("call"),
            usage.of_call(attempt, attempt.lease) as call,
            partial_answers.of_call(attempt) as listener,
        ):
            completion = call.completion = provider().complete(
                request, attempt.lease.key, deadline_s=time_left_s, listener=listener
            )
    finally:
        attempt.spent = attempt.spent.and_call(round((time.monotonic() - begun) * 1000))
    _log(attempt, completion, str(attempt.lease.key), time.monotonic() - begun)
    # After the call is counted: it is paid for, whatever is found.
    structured.hold(request, completion)
    return completion


def _log(attempt: JobAttempt, completion: Completion, key: str, call_s: float) -> None:
    usage = completion.usage
    logger.info(
        "Content generated (tokens: %d, time: %.2fms) by %s with key %s (finish_reason=%s)",
        usage.total_tokens,
        call_s * 1000,
        completion.model_used,
        key,
        completion.finish_reason,
        extra=facts(
            "content_generated",
            key=key,
            model=completion.model_used,
            tokens_in=usage.prompt_tokens,
            tokens_out=usage.completion_tokens,
            cost_usd=usage.cost,
            attempt=attempt.spent.calls,
            retry_count=attempt.job.retry_count,
            call_ms=attempt.spent.call_ms,
            generation_id=completion.generation_id,
            finish_reason=completion.finish_reason,
        ),
    )
