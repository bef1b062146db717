"""Runs a piece of work once: a redelivery waits for the running call, or gets the stored answer."""

import json
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from gateway.errors import ErrorCode, StoreUnavailable
from gateway.ledger import store
from gateway.ledger.owner import Owner
from gateway.ledger.store import Answered, Claim, Running, Started, Superseded
from gateway.messages import Job, Reply
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.topology import DEAD_WORK, HOMES
from gateway.reporting import sentry
from gateway.settings import Settings
from middleware.attempt import JobAttempt, Outcome
from middleware.costs import Costs
from middleware.errors import AlreadyAnswered, Parked
from middleware.hook import Around, Hook
from middleware.key_selection import STORE_RETRY_S
from middleware.outbox import Outbox

#: A lease outlives the deadline of the attempt's calls by this much, in seconds: time to store the answer. After a
#: crash work is taken over at once; this is for what hangs, and for a process that was stopped.
LEASE_MARGIN_S = 10.0

#: How soon the outcome of a call that runs elsewhere is looked up, and how often at least, in seconds.
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0

#: From how many dead processes on a request is a suspect, of which a process runs one at a time: who dies with it alone
#: among them tells which one it is. And at how many it is given up.
SUSPECT_FROM, GIVEN_UP_AT = 5, 20

#: For how long a suspect is parked first, in seconds: at random, or the same one would be the first every time.
SUSPECT_PAUSE_S = (0.1, 1.0)

#: How long after an answer its request may come again because its ack was lost, in seconds: RabbitMQ notices a dead
#: peer after two heartbeats, and what it gives back is the first in its queue.
LOST_ACK_S = 60.0

logger = logging.getLogger(__name__)


class Ledger(Hook[JobAttempt]):
    """An answer is stored before it is published, so that nothing is paid for twice after a crash.

    Its second half runs below the callbacks: first stored, then published. What runs elsewhere is parked.
    """

    kind = JobAttempt

    def __init__(
        self,
        ledger: Callable[[], store.Ledger],
        owner: Callable[[], Owner],
        settings: Callable[[], Settings],
        outbox: Outbox,
        costs: Costs,
    ) -> None:
        self.costs = costs
        self.ledger = ledger
        self.owner = owner
        self.settings = settings
        self.outbox = outbox
        self._suspects = threading.Semaphore(1)

    def around(self, attempt: JobAttempt) -> Around:
        match self._begin(attempt, self._token(attempt)):
            case Answered() as answered:
                self._answer_again(attempt, answered)
                raise AlreadyAnswered("the ledger has the answer")
            case Superseded():
                attempt.outcome = Outcome.DUPLICATE
                raise AlreadyAnswered("a later copy of this delivery waits, or has waited")
            case Running():
                look_s = min(LAST_LOOK_S, FIRST_LOOK_S * 2.0 ** min(attempt.looks, 10))
                raise attempt.park("the same work runs elsewhere", after_s=look_s)
            case Started(delivery, cancelled):
                attempt.holds, attempt.delivery_id, attempt.cancelled = True, delivery, cancelled
                if attempt.reply is not None:  # of an earlier look; the ledger has lost it since
                    attempt.stored = False
                    self._store(attempt, attempt.reply)
                    raise AlreadyAnswered("it was answered before it was parked")
                if self._deaths(attempt) >= GIVEN_UP_AT:
                    self._give_up(attempt)
                error = yield
        if attempt.reply is not None:
            self._store(attempt, attempt.reply)
        elif not isinstance(error, Parked):
            self._give_back(attempt)

    def _token(self, attempt: JobAttempt) -> str:
        """One for the attempt, however often it asks."""
        if attempt.token is None:
            attempt.token = self.owner().take()
            attempt.at_end.append(partial(self._let_go, attempt))
        return attempt.token

    def _begin(self, attempt: JobAttempt, token: str) -> store.Entry:
        job = attempt.job
        claim = Claim(
            attempt.work,
            token,
            attempt.delivery_id,
            lease_s=self.settings().request_timeout_seconds + LEASE_MARGIN_S,
            hop=job.hop,
            redelivered=_may_be_any_delivery(job),
        )
        try:
            entry = self._entry(claim, attempt)
            if isinstance(entry, Answered) and _asked_again_after_a_failure(entry, job, attempt):
                entry = self._entry(replace(claim, replace_failure=True), attempt)
        except StoreUnavailable as error:
            attempt.holds = True  # perhaps: the step may be done, and only its answer be lost
            logger.log(logging.DEBUG if attempt.looks else logging.ERROR, "Waiting for the ledger: %s", error)
            raise attempt.park("the ledger is away", after_s=STORE_RETRY_S, keeps_room=True) from None
        attempt.holds = isinstance(entry, Answered) and not entry.published
        return entry

    def _entry(self, claim: Claim, attempt: JobAttempt) -> store.Entry:
        ledger, owner = self.ledger(), self.owner()
        entry = ledger.begin(claim)
        if not isinstance(entry, Running) or owner.lives(entry.token):
            return entry
        deaths = owner.deaths(entry.token)
        if deaths >= SUSPECT_FROM:
            self._run_alone(attempt)
        owner.drop(claim.token)
        attempt.token = owner.take(deaths)
        logger.info("Taken over: whoever had begun it is gone (%d died at it)", deaths)
        dead = entry.token
        entry = ledger.begin(replace(claim, token=attempt.token, dead=dead))
        if isinstance(entry, Started):
            self.costs.of_death(dead, attempt.job)
        else:
            self._leave_room(attempt)
        return entry

    def _run_alone(self, attempt: JobAttempt) -> None:
        """Return when this is the one suspect that runs in this process; else it is parked."""
        if self._suspects.release in attempt.at_end:
            return
        if not attempt.looks or not self._suspects.acquire(blocking=False):
            after_s = random.uniform(*SUSPECT_PAUSE_S)
            raise attempt.park("workers have died at it, and it runs alone", after_s=after_s)
        attempt.at_end.append(self._suspects.release)

    def _leave_room(self, attempt: JobAttempt) -> None:
        """Somebody else does it: another suspect may run here."""
        if self._suspects.release in attempt.at_end:
            attempt.at_end.remove(self._suspects.release)
            self._suspects.release()

    def _deaths(self, attempt: JobAttempt) -> int:
        return self.owner().deaths(self._token(attempt))

    def _give_up(self, attempt: JobAttempt) -> None:
        """Keep a request that kills workers for an operator."""
        properties = dead_letter(
            reason=f"{self._deaths(attempt)} worker processes have died while it ran",
            code=ErrorCode.INTERNAL,
            source=HOMES[attempt.job.lane],
            request_id=attempt.request_id,
            first_seen=attempt.job.received_at,
            attempts=self._deaths(attempt),
        )
        self.outbox.insist(DEAD_WORK, attempt.message.encode(), properties)
        logger.error("Given up: worker processes die at it; moved to the dead queue")
        sentry.tell_operator("request_kills_workers", "a request that kills workers is in the dead queue")
        attempt.outcome = Outcome.DEAD
        raise AlreadyAnswered("it is in the dead queue")

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
            caller=attempt.job.caller,
        )
        attempt.stored = True

    def _store(self, attempt: JobAttempt, reply: Reply) -> None:
        try:
            is_first = self.ledger().answer(
                attempt.work,
                self._token(attempt),
                envelope=reply.body.encode(),
                message_id=reply.message_id,
                failure=not reply.success,
                delivery=attempt.delivery_id,
                paid=attempt.paid,
            )
            attempt.paid = []
        except StoreUnavailable as error:
            # The answer is paid for: it is published all the same, only a crash right now could cost it again.
            logger.error("Publishing without a ledger entry: %s", error)  # noqa: TRY400 - expected
            return
        if is_first:
            attempt.stored = True
        else:
            logger.warning("Answered elsewhere meanwhile, and paid for twice: that answer counts")
            attempt.reply, attempt.holds = None, False

    def _give_back(self, attempt: JobAttempt) -> None:
        if attempt.outcome is Outcome.SCHEDULED:
            try:
                self.ledger().scheduled(
                    attempt.work,
                    self._token(attempt),
                    delivery=attempt.delivery_id,
                    hop=attempt.job.hop + 1,
                    paid=attempt.paid,
                )
                attempt.holds, attempt.paid = False, []
            except StoreUnavailable as error:
                logger.warning("The copy that waits is not in the ledger: %s", error)

    def _let_go(self, attempt: JobAttempt) -> None:
        """The attempt is over: what the ledger still has as its own is for the next delivery."""
        token = self._token(attempt)
        self.owner().drop(token)
        if attempt.paid:  # what was not to be stored, or the store was away
            self.costs.books().later(attempt.paid)
        if attempt.holds:
            attempt.holds = False
            try:
                self.ledger().abandon(attempt.work, token)
            except StoreUnavailable as error:
                logger.warning("Other processes wait for this one's lease to end: %s", error)


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
