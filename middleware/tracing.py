"""A delivery is a span in the trace of its request."""

from dataclasses import replace

from gateway.reporting import tracing
from gateway.reporting.tracing import Messaging
from middleware.attempt import Attempt, JobAttempt, ReplyAttempt
from middleware.hook import Around, Hook


class Tracing(Hook[Attempt]):
    """Around all that is done for it, its answer's way to the callback queue as well; where nobody wants it, nothing.

    One that is parked is a span each time that it is looked at.
    """

    def around(self, attempt: Attempt) -> Around:
        if not tracing.is_on():
            yield
            return
        with tracing.span("process", _said_of(attempt), of=_trace(attempt)):
            yield


def _said_of(attempt: Attempt) -> Messaging:
    said = Messaging(attempt.queue, attempt.delivery_id, attempt.body_bytes)
    if not isinstance(attempt, JobAttempt):
        return said
    job = attempt.job
    return replace(said, latency_ms=job.age_ms, retry_count=job.retry_count + job.upstream_retries)


def _trace(attempt: Attempt) -> tracing.Trace:
    match attempt:
        case JobAttempt():
            return attempt.job.caller.trace
        case ReplyAttempt():
            return attempt.reply.caller.trace
    return None
