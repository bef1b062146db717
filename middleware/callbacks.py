"""Fires `on_success` or `on_failure` once, on the final outcome, with the finished reply."""

import logging
import threading
from collections.abc import Callable

from dramatiq import Actor, Broker

from gateway.errors import (
    ConfirmTimeout,
    ConnectionLost,
    ErrorCode,
    GatewayError,
    Nacked,
    StoreUnavailable,
    TooLarge,
    Unroutable,
)
from gateway.ledger.store import Ledger
from gateway.messages import Failure, Reply
from gateway.reporting import sentry
from middleware.attempt import JobAttempt, Outcome
from middleware.errors import AlreadyAnswered, NotRun
from middleware.held_replies import PUBLISH_AGAIN_S, HeldReplies, client_is_gone
from middleware.hook import Verdict

logger = logging.getLogger(__name__)


class Callbacks(Verdict[JobAttempt]):
    """The callback actor runs in this worker at once; when the callback queue refuses the reply it runs later.

    Later means as a message of `gemini.callbacks`: the reply is finished, so nothing is generated again.
    """

    kind = JobAttempt

    def __init__(self, held: HeldReplies, ledger: Callable[[], Ledger], stopping: threading.Event) -> None:
        self.held = held
        self.ledger = ledger
        self.stopping = stopping

    @property
    def actor_options(self) -> set[str]:
        return {"on_success", "on_failure"}

    def after(self, broker: Broker, attempt: JobAttempt, error: BaseException | None) -> None:
        if attempt.reply is None or not _is_to_publish(attempt, error):
            return
        while attempt.outcome is None and attempt.parking is None:
            try:
                attempt.outcome = self._deliver(broker, attempt, attempt.reply)
            except (ConfirmTimeout, ConnectionLost) as late:
                logger.warning("Not confirmed yet: %s", late)
                if self.stopping.is_set():
                    return
                if attempt.stored:  # else it is nowhere but here
                    attempt.park("the answer is not confirmed", after_s=PUBLISH_AGAIN_S, keeps_room=True)
        if attempt.outcome is not None:
            self._mark_published(attempt)

    def _deliver(self, broker: Broker, attempt: JobAttempt, reply: Reply) -> Outcome:
        try:
            return self._publish_or_hold(_callback(broker, attempt, reply), reply)
        except TooLarge as refused:
            logger.error("The answer cannot be delivered: %s", refused)  # noqa: TRY400 - the text says it all
            sentry.tell_operator("answer_too_large", str(refused), about=reply.queue)
            notice = _notice(attempt, reply, refused)
            return self._publish_or_hold(_callback(broker, attempt, notice), notice)

    def _publish_or_hold(self, actor: Actor[[Reply], None], reply: Reply) -> Outcome:
        try:
            actor.fn(reply)
        except TooLarge:
            raise
        except (Unroutable, Nacked) as refused:
            logger.warning("The callback queue refused the reply, held for later: %s", refused)
            if not client_is_gone(reply, refused):  # else it is its own business
                sentry.tell_operator("callback_refused", str(refused), about=reply.queue)
            return self.held.hold(actor.message(reply), reply, refused)
        return Outcome.ANSWERED

    def _mark_published(self, attempt: JobAttempt) -> None:
        if not attempt.stored:
            return
        attempt.holds = False
        try:
            self.ledger().published(attempt.work)
        except StoreUnavailable as unavailable:
            logger.warning("A redelivery would publish this answer again, with the same message_id: %s", unavailable)


def _is_to_publish(attempt: JobAttempt, error: BaseException | None) -> bool:
    """Whether the reply is for this attempt to publish.

    One that did not run has it from the ledger; or of an earlier look, and then RabbitMQ may have the delivery back.
    """
    return not isinstance(error, NotRun) or (isinstance(error, AlreadyAnswered) and attempt.stored)


def _callback(broker: Broker, attempt: JobAttempt, reply: Reply) -> Actor[[Reply], None]:
    options = broker.get_actor(attempt.message.actor_name).options
    return broker.get_actor(options["on_success" if reply.success else "on_failure"])


def _notice(attempt: JobAttempt, reply: Reply, refused: TooLarge) -> Reply:
    """What the producer gets in place of an envelope that is too large, without what may have made it so."""
    text = f"The answer is larger than RabbitMQ takes (max_message_size): {refused}"
    error = GatewayError(text, code=ErrorCode.CALLBACK_REFUSED)
    envelope = Failure.of(
        error, request_id=reply.request_id, processing_time_ms=attempt.job.age_ms, spent=attempt.spent
    )
    return Reply.of(envelope, queue=reply.queue, work_id=reply.message_id, caller=reply.caller)
