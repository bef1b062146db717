"""Runs a piece of work once: a redelivery waits for the running call, or gets the stored answer."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime

from gateway.errors import StoreUnavailable
from gateway.ledger import store
from gateway.ledger.store import Answered, Running, Started, Superseded
from gateway.messages import Job, Reply
from gateway.settings import Settings
from middleware.attempt import JobAttempt, Outcome
from middleware.errors import AlreadyAnswered, Stopping
from middleware.hook import Around, Hook
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

#: How long after an answer its request may come again because its ack was lost, in seconds: RabbitMQ notices a dead
#: peer after two heartbeats, and what it gives back is the first in its queue.
LOST_ACK_S = 60.0

logger = logging.getLogger(__name__)


class Ledger(Hook[JobAttempt]):
    """An answer is stored before it is published, so that nothing is paid for twice after a crash.

    Its second half runs below the callbacks: first stored, then published.
    """

    kind = JobAttempt

    def __init__(
        self,
        ledger: Callable[[], store.Ledger],
        settings: Callable[[], Settings],
        publishing: Publishing,
        stopping: threading.Event,
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self.publishing = publishing
        self.stopping = stopping

    def around(self, attempt: JobAttempt) -> Around:
        match self._begin(attempt):
            case Answered() as answered:
                self._answer_again(attempt, answered)
                raise AlreadyAnswered("the ledger has the answer")
            case Superseded():
                attempt.outcome = Outcome.DUPLICATE
                raise AlreadyAnswered("a later copy of this delivery waits, or has waited")
            case Started(token, delivery):
                attempt.delivery_id = delivery
                yield
        if attempt.reply is None:
            self._give_back(attempt, token)
        else:
            self.publishing.begin(attempt)  # first: from the answer on, a redelivery looks for its publisher
            self._store(attempt, token, attempt.reply)

    def _begin(self, attempt: JobAttempt) -> Started | Superseded | Answered:
        patient_until, ours = math.inf, False
        while True:
            try:
                entry = self._entry(attempt)
            except StoreUnavailable as error:
                logger.error("Waiting for the ledger: %s", error)  # noqa: TRY400 - expected, the text says it all
                self._pause(STORE_RETRY_S)
                continue
            if isinstance(entry, Answered) and not entry.published and not ours:
                # Another copy of the delivery may be about to publish it: two in flight would be two envelopes.
                patient_until = min(patient_until, time.monotonic() + PUBLISHING_S)
                ours = time.monotonic() >= patient_until and self.publishing.begin(attempt)
                if not ours:
                    self._pause(PUBLISHING_POLL_S)
                continue  # and look again: it may have been published a moment ago
            if not isinstance(entry, Running):
                return entry
            logger.debug("The same work runs elsewhere; its lease ends in %.1f s", entry.lease_ends_in_s)
            self._pause(min(POLL_S, max(0.01, entry.lease_ends_in_s)))

    def _entry(self, attempt: JobAttempt) -> store.Entry:
        job, lease_s = attempt.job, self.settings().request_timeout_seconds + LEASE_MARGIN_S
        ledger = self.ledger()
        entry = ledger.begin(
            attempt.work,
            delivery=attempt.delivery_id,
            hop=job.hop,
            lease_s=lease_s,
            redelivered=_may_be_any_delivery(job),
        )
        if isinstance(entry, Answered) and _asked_again_after_a_failure(entry, job, attempt):
            return ledger.restart(attempt.work, delivery=attempt.delivery_id, hop=job.hop, lease_s=lease_s)
        return entry

    def _pause(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise Stopping("the worker is stopping")

    def _answer_again(self, attempt: JobAttempt, answered: Answered) -> None:
        """Have the stored answer published, unless this very delivery was answered before."""
        is_this = answered.delivery == attempt.delivery_id or _has_lost_its_ack(answered, attempt.job)
        if answered.published and is_this:
            attempt.outcome = Outcome.DUPLICATE
            return
        logger.info("Answering from the ledger: no call")
        attempt.reply = Reply(
            request_id=attempt.job.request_id,
            queue=attempt.job.request.callback_queue,
            body=answered.envelope.decode(),
            message_id=answered.message_id,
            success=not answered.failure,
        )
        attempt.stored = True

    def _give_back(self, attempt: JobAttempt, token: str) -> None:
        ledger = self.ledger()
        try:
            if attempt.outcome is Outcome.SCHEDULED:
                ledger.scheduled(attempt.work, token, delivery=attempt.delivery_id, hop=attempt.job.hop + 1)
            else:
                ledger.abandon(attempt.work, token)
        except StoreUnavailable as error:
            logger.warning("The next delivery waits for this one's lease to end: %s", error)

    def _store(self, attempt: JobAttempt, token: str, reply: Reply) -> None:
        try:
            self.ledger().answer(
                attempt.work,
                token,
                envelope=reply.body.encode(),
                message_id=reply.message_id,
                failure=not reply.success,
                delivery=attempt.delivery_id,
            )
            attempt.stored = True
        except StoreUnavailable as error:
            # The answer is paid for: it is published all the same, only a crash right now could cost it again.
            logger.error("Publishing without a ledger entry: %s", error)  # noqa: TRY400 - expected


def _may_be_any_delivery(job: Job) -> bool:
    """Whether RabbitMQ has delivered the request before, to a worker that may have settled it but for its ack.

    A request gets our name for a delivery when it arrives, and another one when it arrives again. So what is known of
    its work is taken to be about itself: its answer, which is published, and its copy, which waits.
    """
    return job.redelivered and job.hop == 0


def _has_lost_its_ack(answered: Answered, job: Job) -> bool:
    """Whether a request that comes again is the one that was answered, and no other one with the same content.

    RabbitMQ gives back what was not acked as soon as it notices that a connection is gone. What comes again long after
    the answer was fetched and never started, and somebody waits for it: a copy for him is the lesser evil.
    """
    return _may_be_any_delivery(job) and job.received_at - _answered_at(answered) < LOST_ACK_S


def _answered_at(answered: Answered) -> float:
    """Epoch seconds."""
    return datetime.fromisoformat(json.loads(answered.envelope)["timestamp"]).timestamp()


def _asked_again_after_a_failure(entry: Answered, job: Job, attempt: JobAttempt) -> bool:
    """A producer that sends a failed request again wants another try.

    A request that comes again because its ack was lost does not. One of the two says that it was redelivered; the other
    one was read before there was a failure.
    """
    if not entry.failure or entry.delivery == attempt.delivery_id or job.redelivered:
        return False
    return job.received_at > _answered_at(entry)
