"""Runs a piece of work once: a redelivery waits for the running call, or gets the stored answer."""

import logging
import math
import time
from datetime import datetime

from dramatiq import Broker, Middleware
from dramatiq.broker import MessageProxy

from gateway.errors import StoreUnavailable
from gateway.ledger.store import Answered, Running, Started, Superseded, Work
from gateway.messages import Failure, Job, Reply
from gateway.runtime import Runtime
from middleware.attempt import Attempt, Outcome, attempt_of
from middleware.errors import AlreadyAnswered, Stopping
from middleware.key_selection import STORE_RETRY_S
from middleware.publishing import Publishing

#: A lease outlives the deadline of the attempt's calls by this much, in seconds: time to store the answer. After a
#: crash the redelivery waits until the lease has ended, so longer is not safer but slower.
LEASE_MARGIN_S = 10.0

#: How often the outcome of a call that runs elsewhere is looked up.
POLL_S = 0.25

#: How long a stored answer may take to be published by another process before a redelivery publishes it again, and how
#: often that is looked up, in seconds. One of this process may take as long as it needs.
PUBLISHING_S, PUBLISHING_POLL_S = 1.0, 0.05

logger = logging.getLogger(__name__)


class LedgerMiddleware(Middleware):
    """An answer is stored before it is published, so that nothing is paid for twice after a crash.

    Its after-hook runs below that of the callbacks: first stored, then published.
    """

    def __init__(self, runtime: Runtime, publishing: Publishing) -> None:
        self.runtime = runtime
        self.publishing = publishing

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        attempt = attempt_of(message)
        if attempt.job is None:
            return
        attempt.work = Work.of(attempt.job)
        match self._begin(attempt.job, attempt.work, attempt):
            case Started(token):
                attempt.ledger_token = token
            case Answered() as answered:
                self._answer_again(attempt, attempt.job, answered)
            case Superseded():
                attempt.outcome = Outcome.DUPLICATE
                raise AlreadyAnswered("a later copy of this delivery waits, or has waited")

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        attempt = attempt_of(message)
        if attempt.job is None or attempt.work is None or attempt.ledger_token is None:
            return
        if attempt.reply is None:
            self._give_back(attempt.work, attempt, attempt.job, attempt.ledger_token)
            return
        self.publishing.begin(attempt.work, attempt)  # first: from the answer on, a redelivery looks for its publisher
        self._store(attempt.work, attempt, attempt.reply)

    def _begin(self, job: Job, work: Work, attempt: Attempt) -> Started | Superseded | Answered:
        lease_s = self.runtime.settings.request_timeout_seconds + LEASE_MARGIN_S
        patient_until, ours = math.inf, False
        while True:
            try:
                entry = self.runtime.ledger.begin(work, delivery=attempt.delivery_id, hop=job.hop, lease_s=lease_s)
                if isinstance(entry, Answered) and _asked_again_after_a_failure(entry, job, attempt):
                    entry = self.runtime.ledger.restart(
                        work, delivery=attempt.delivery_id, hop=job.hop, lease_s=lease_s
                    )
            except StoreUnavailable as error:
                logger.error("Waiting for the ledger: %s", error)  # noqa: TRY400 - expected, the text says it all
                self._pause(STORE_RETRY_S)
                continue
            if isinstance(entry, Answered) and not entry.published and not ours:
                # Another copy of the delivery may be about to publish it: two in flight would be two envelopes.
                patient_until = min(patient_until, time.monotonic() + PUBLISHING_S)
                ours = time.monotonic() >= patient_until and self.publishing.begin(work, attempt)
                if not ours:
                    self._pause(PUBLISHING_POLL_S)
                continue  # and look again: it may have been published a moment ago
            if not isinstance(entry, Running):
                return entry
            logger.debug("The same work runs elsewhere; its lease ends in %.1f s", entry.lease_ends_in_s)
            self._pause(min(POLL_S, max(0.01, entry.lease_ends_in_s)))

    def _pause(self, seconds: float) -> None:
        if self.runtime.stopping.wait(seconds):
            raise Stopping("the worker is stopping")

    def _answer_again(self, attempt: Attempt, job: Job, answered: Answered) -> None:
        if answered.published and answered.delivery == attempt.delivery_id:
            attempt.outcome = Outcome.DUPLICATE
            raise AlreadyAnswered("this delivery was answered before")
        logger.info("Answering from the ledger: no call")
        attempt.reply = Reply(
            request_id=job.request_id,
            queue=job.request.callback_queue,
            body=answered.envelope.decode(),
            message_id=answered.message_id,
            success=not answered.failure,
        )
        attempt.stored = True
        raise AlreadyAnswered("the ledger has the answer")

    def _give_back(self, work: Work, attempt: Attempt, job: Job, token: str) -> None:
        ledger = self.runtime.ledger
        try:
            if attempt.outcome is Outcome.SCHEDULED:
                ledger.scheduled(work, token, delivery=attempt.delivery_id, hop=job.hop + 1)
            else:
                ledger.abandon(work, token)
        except StoreUnavailable as error:
            logger.warning("The next delivery waits for this one's lease to end: %s", error)

    def _store(self, work: Work, attempt: Attempt, reply: Reply) -> None:
        try:
            self.runtime.ledger.answer(
                work,
                attempt.ledger_token or "",
                envelope=reply.body.encode(),
                message_id=reply.message_id,
                failure=not reply.success,
                delivery=attempt.delivery_id,
            )
            attempt.stored = True
        except StoreUnavailable as error:
            # The answer is paid for: it is published all the same, only a crash right now could cost it again.
            logger.error("Publishing without a ledger entry: %s", error)  # noqa: TRY400 - expected


def _asked_again_after_a_failure(entry: Answered, job: Job, attempt: Attempt) -> bool:
    """A producer that sends a failed request again wants another try.

    The second of two copies that the bridge has relayed, because its ack was lost, does not. One of the two says that
    it was redelivered; the other one was read before there was a failure.
    """
    if not entry.failure or entry.delivery == attempt.delivery_id or job.redelivered:
        return False
    failed_at = datetime.fromisoformat(Failure.model_validate_json(entry.envelope).timestamp)
    return job.received_at > failed_at.timestamp()
