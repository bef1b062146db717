"""One delivery, from the first hook to the last: what is known of it, and what became of it."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from gateway.costs.call import PaidCall
from gateway.keys.pool import Lease
from gateway.ledger.store import Work
from gateway.messages import Completion, Job, Reply, Spent
from gateway.usage.store import Waiting
from middleware.errors import Parked


class Outcome(StrEnum):
    """What RabbitMQ has confirmed of a delivery. Without one of these a delivery is never acked."""

    ANSWERED = "answered"
    HELD = "held"  # finished and confirmed in gemini.callbacks, which delivers it later
    SCHEDULED = "scheduled"
    DEAD = "dead"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Parking:
    """For how long a delivery waits without a thread; with `keeps_room` no other is fetched in its place.

    One that waits `for_key` may be handed out earlier, with a key.
    """

    after_s: float
    keeps_room: bool
    for_key: bool = False


@dataclass(kw_only=True, eq=False)
class Attempt:
    """What every delivery has.

    `hooks` are those that run around it, each where its `yield` stands; `verdicts` are those that have decided.
    `looks` counts how often it was parked; `at_end` is called when the delivery is settled, in this process or not.
    """

    message: "Message[None]"
    delivery_id: str
    is_gone: Callable[[], bool]  # RabbitMQ has the delivery back
    request_id: str | None
    queue: str  # in which it lay
    body_bytes: int
    outcome: Outcome | None = None
    started: float = field(default_factory=time.monotonic)
    hooks: dict[object, Any] = field(default_factory=dict, repr=False)
    verdicts: set[object] = field(default_factory=set, repr=False)
    parking: Parking | None = None
    looks: int = 0
    at_end: list[Callable[[], None]] = field(default_factory=list, repr=False)

    @property
    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def park(self, why: str, *, after_s: float, keeps_room: bool = False, for_key: bool = False) -> Parked:
        """Have the delivery looked at again; to be raised. It has no outcome, stays unacked, and holds no thread.

        With `keeps_room` it waits for what everybody waits for: to fetch others meanwhile would be of no use.
        """
        self.parking = Parking(after_s, keeps_room, for_key)
        return Parked(why)

    def look_again(self) -> Parking | None:
        """How it is parked, None if it is not; from now on it is as it was before its first hook."""
        parking, self.parking = self.parking, None
        if parking is not None:
            self.looks += 1
            self.verdicts.clear()
        return parking


@dataclass(kw_only=True, eq=False)
class JobAttempt(Attempt):
    """A delivery of `generate`. The fields are what hooks and actor hand to one another."""

    job: Job
    lease: Lease | None = None
    lease_id: str | None = None  # under which one was asked for without an answer
    called: bool = False  # a provider has been called with `lease`
    passed_over: set[str] = field(default_factory=set)  # digests of keys that cannot pay for the request
    reductions: int = 0  # how often it has asked for fewer tokens than the request wants
    completion: Completion | None = None
    spent: Spent  # by this attempt and those before it
    paid: list[PaidCall] = field(default_factory=list)  # and not booked yet
    reply: Reply | None = None
    waiting: Waiting | None = None  # its copy in a delay queue
    stored: bool = False  # `reply` is in the ledger
    token: str | None = None  # under which the ledger knows the attempt
    cancelled: bool = False  # its sender does not want it any more, the ledger says
    holds: bool = False  # the ledger may have the work, or its answer, as this attempt's

    @cached_property
    def work(self) -> Work:
        """The job's identity in the ledger."""
        return Work.of(self.job)


@dataclass(kw_only=True, eq=False)
class ReplyAttempt(Attempt):
    """A delivery of a callback actor: a reply that was refused before."""

    reply: Reply


#: The attempt that the current thread works on. The lease travels here and never in message options: those are
#: serialised.
current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def attempt_of(message: MessageProxy) -> Attempt:
    """The attempt of a delivery; made on first use."""
    attempt: Attempt | None = vars(message).get("attempt")
    if attempt is None:
        attempt = _made(message)
        message.attempt = attempt  # type: ignore[attr-defined]
    return attempt


def current_attempt() -> JobAttempt:
    """The attempt at a job that the current thread works on. Raises LookupError outside a delivery."""
    attempt = current.get()
    if not isinstance(attempt, JobAttempt):
        raise LookupError("there is no job in this context: actors are run by Dramatiq")  # noqa: TRY004
    return attempt


def _made(delivery: MessageProxy) -> Attempt:
    message = delivery._message  # noqa: SLF001 - the proxy has no copy() of its own type
    arrived = getattr(delivery, "delivery", None)
    facts: dict[str, Any] = {
        "message": message,
        "delivery_id": message.message_id,
        "queue": arrived.queue if arrived is not None else message.queue_name,
        "body_bytes": len(arrived.body) if arrived is not None else 0,
        "is_gone": lambda: getattr(delivery, "is_gone", False),
    }
    match message.args:
        case (Job() as job,):
            return JobAttempt(request_id=job.request_id, job=job, spent=job.spent or Spent(), **facts)
        case (Reply() as reply,):
            return ReplyAttempt(request_id=reply.request_id, reply=reply, **facts)
    return Attempt(request_id=None, **facts)
