"""Decides what becomes of an attempt: answered, waiting in a delay queue, or failed for good."""

import logging
import threading
from collections.abc import Callable

from dramatiq import Broker

from gateway.errors import BudgetSpent, ErrorCode, GatewayError, TooLarge
from gateway.messages import Envelope, Failure, Reply, Success
from gateway.rabbitmq.topology import Topology
from gateway.reporting import sentry
from gateway.reporting.logs import facts
from gateway.reporting.redaction import escape_controls
from gateway.schedule import End, Schedules, Stay, Wait, next_step
from gateway.usage.store import Waiting
from middleware.attempt import JobAttempt, Outcome
from middleware.errors import NotRun
from middleware.hook import Verdict
from middleware.outbox import Outbox

logger = logging.getLogger(__name__)


class RetrySchedule(Verdict[JobAttempt]):
    """After this hook an attempt is scheduled (its copy is confirmed in a delay queue) or has a finished reply.

    When the copy cannot be confirmed it is neither, and the original goes back to its queue. One whose deadline is near
    is parked. `requests_wait` is set for who waits for a key.
    """

    kind = JobAttempt

    def __init__(
        self,
        schedules: Callable[[], Schedules],
        topology: Callable[[], Topology],
        outbox: Outbox,
        requests_wait: threading.Event,
    ) -> None:
        self.schedules = schedules
        self.topology = topology
        self.outbox = outbox
        self.requests_wait = requests_wait

    @property
    def actor_options(self) -> set[str]:
        return {"throws"}  # Dramatiq logs these exceptions of an actor in a line, not with a traceback

    def after(self, broker: Broker, attempt: JobAttempt, error: BaseException | None) -> None:
        if isinstance(error, NotRun):
            return
        if error is None:
            attempt.reply = _finished(attempt)
            return
        match next_step(attempt.job, error, self.schedules()):
            case Wait() as wait:
                try:
                    self._schedule(attempt, wait, error)
                except TooLarge as refused:
                    attempt.reply = _failure(attempt, End(_too_large(refused), expected=True), refused)
            case Stay(for_s):
                attempt.park("no key is free", after_s=for_s, keeps_room=False, for_key=True)
                self.requests_wait.set()
                logger.info("Waiting up to %.1f s, until the deadline: %s", for_s, error)
            case End() as end:
                attempt.reply = _failure(attempt, end, error)

    def _schedule(self, attempt: JobAttempt, wait: Wait, why: BaseException) -> None:
        topology = self.topology()
        queue_of = topology.key_wait if wait.for_key else topology.upstream_wait
        queue = queue_of(wait.delay_s, wait.job.lane)
        job = wait.job.model_copy(update={"hop": wait.job.hop + 1, "spent": attempt.spent})
        copy = attempt.message.copy(args=(job,), options={}, message_id=attempt.delivery_id)
        self.outbox.send(copy, queue)
        attempt.outcome = Outcome.SCHEDULED
        attempt.waiting = _waiting(attempt, wait, queue, why)
        if wait.for_key:
            self.requests_wait.set()
        logger.info(
            "Waiting up to %g s (retry_count=%d, upstream_retries=%d): %s%s",
            wait.delay_s,
            wait.job.retry_count,
            wait.job.upstream_retries,
            "Rate limit hit, will retry with backoff: " if wait.for_key and not isinstance(why, BudgetSpent) else "",
            why if isinstance(why, GatewayError) else type(why).__name__,
            extra=facts(
                "waiting",
                wait_s=wait.delay_s,
                retry_count=wait.job.retry_count,
                attempt=attempt.spent.calls,
                error_code=attempt.waiting.code,
            ),
        )


def _too_large(refused: TooLarge) -> GatewayError:
    text = f"The request has to wait, and is larger than RabbitMQ takes (max_message_size): {refused}"
    return GatewayError(text, code=ErrorCode.INVALID_REQUEST)


def _waiting(attempt: JobAttempt, wait: Wait, queue: str, why: BaseException) -> Waiting:
    """What an operator reads of it."""
    known = why if isinstance(why, GatewayError) else None
    return Waiting(
        id=attempt.delivery_id,
        request_id=escape_controls(attempt.job.request_id, 80),
        queue=queue,
        due_in_s=wait.delay_s,
        code=known.code if known is not None else ErrorCode.INTERNAL,
        why=escape_controls(str(known), 120) if known is not None else type(why).__name__,
        model=escape_controls(attempt.job.request.model, 80) if attempt.job.request.model else None,
        retry_count=wait.job.retry_count,
    )


def _finished(attempt: JobAttempt) -> Reply:
    """The envelope of what is paid for. A fault of ours is told to the producer: another try would be paid again."""
    try:
        return _success(attempt)
    except Exception as fault:
        logger.exception("An answer could not be made into an envelope")
        return _failure(attempt, End(GatewayError("Internal error", code=ErrorCode.INTERNAL)), fault)


def _success(attempt: JobAttempt) -> Reply:
    job = attempt.job
    if attempt.completion is None:
        raise LookupError("the actor has ended without an error and without a completion")
    envelope = Success.of(job, attempt.completion, processing_time_ms=job.age_ms, spent=attempt.spent)
    return _reply(attempt, envelope)


def _failure(attempt: JobAttempt, end: End, cause: BaseException) -> Reply:
    job = attempt.job
    logger.error("Failed: %s", end.error, extra=facts("failed", error_code=end.error.code, attempt=attempt.spent.calls))
    if not end.expected:
        sentry.capture_failure(end.error, request_id=job.request_id, model=job.request.model, cause=cause)
    envelope = Failure.of(
        end.error,
        request_id=job.request_id,
        processing_time_ms=job.age_ms,
        metadata=job.request.metadata,
        spent=attempt.spent,
    )
    return _reply(attempt, envelope)


def _reply(attempt: JobAttempt, envelope: Envelope) -> Reply:
    job = attempt.job
    return Reply.of(envelope, queue=job.request.callback_queue, work_id=attempt.delivery_id, caller=job.caller)
