"""Decides what becomes of an attempt: answered, waiting in a delay queue, or failed for good."""

import logging

from dramatiq import Broker, Middleware
from dramatiq.broker import MessageProxy

from gateway.errors import GatewayError
from gateway.messages import Failure, Job, Reply, Success
from gateway.reporting import sentry
from gateway.runtime import Runtime
from gateway.schedule import End, Wait, next_step
from middleware.attempt import Attempt, Outcome, attempt_of
from middleware.errors import NotRun
from middleware.outbox import publish_until_stopped

logger = logging.getLogger(__name__)


class RetrySchedule(Middleware):
    """After this hook an attempt is scheduled (its copy is confirmed in a delay queue) or has a finished reply.

    When the copy cannot be confirmed it is neither, and the original goes back to its queue.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @property
    def actor_options(self) -> set[str]:
        return {"throws"}  # Dramatiq logs these exceptions of an actor in a line, not with a traceback

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        attempt = attempt_of(message)
        if attempt.job is None or isinstance(exception, NotRun):
            return
        if exception is None:
            attempt.reply = self._success(attempt, attempt.job)
            return
        match next_step(attempt.job, exception, self.runtime.settings):
            case Wait() as wait:
                self._schedule(message, attempt, wait, exception)
            case End() as end:
                message.fail()
                attempt.reply = self._failure(attempt, attempt.job, end, exception)

    def _schedule(self, message: MessageProxy, attempt: Attempt, wait: Wait, why: BaseException) -> None:
        topology = self.runtime.topology
        queue = topology.key_wait(wait.delay_s) if wait.for_key else topology.upstream_wait(wait.delay_s)
        job = wait.job.model_copy(update={"hop": wait.job.hop + 1})
        publish_until_stopped(self.runtime, message.copy(args=(job,), options={}), queue)
        attempt.outcome = Outcome.SCHEDULED
        if wait.for_key:
            self.runtime.requests_wait.set()
        logger.info(
            "Waiting up to %g s (retry_count=%d, upstream_retries=%d): %s",
            wait.delay_s,
            wait.job.retry_count,
            wait.job.upstream_retries,
            why if isinstance(why, GatewayError) else type(why).__name__,
        )

    @staticmethod
    def _success(attempt: Attempt, job: Job) -> Reply:
        if attempt.completion is None:
            raise LookupError("the actor has ended without an error and without a completion")
        envelope = Success.of(job, attempt.completion, processing_time_ms=job.age_ms)
        return Reply.of(envelope, queue=job.request.callback_queue, work_id=attempt.delivery_id)

    @staticmethod
    def _failure(attempt: Attempt, job: Job, end: End, cause: BaseException) -> Reply:
        logger.error("Failed: %s", end.error)
        if not end.expected:
            sentry.capture_failure(end.error, request_id=job.request_id, model=job.request.model, cause=cause)
        envelope = Failure.of(
            end.error, request_id=job.request_id, processing_time_ms=job.age_ms, metadata=job.request.metadata
        )
        return Reply.of(envelope, queue=job.request.callback_queue, work_id=attempt.delivery_id)
