"""One delivery of a job, from the first hook to the last: what is known of it, and what became of it."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dramatiq.broker import MessageProxy

from gateway.keys.pool import Lease
from gateway.ledger.store import Work
from gateway.messages import Completion, Job, Reply


class Outcome(StrEnum):
    """What RabbitMQ has confirmed of a delivery. Without one of these a delivery is never acked."""

    ANSWERED = "answered"
    HELD = "held"  # finished and confirmed in gemini.callbacks, which delivers it later
    SCHEDULED = "scheduled"
    DEAD = "dead"
    DUPLICATE = "duplicate"


@dataclass(slots=True)
class Attempt:
    """The state of one delivery, shared by the hooks.

    A hook may run although its counterpart did not, so each field says by itself whether there is something to undo.
    """

    delivery_id: str
    job: Job | None = None
    reply: Reply | None = None
    lease: Lease | None = None
    deadline: float | None = None  # of all its calls together, monotonic seconds; set by the first one
    called: bool = False  # a provider has been called with `lease`
    completion: Completion | None = None
    work: Work | None = None  # the job's identity in the ledger
    ledger_token: str | None = None
    stored: bool = False  # `reply` is in the ledger
    outcome: Outcome | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)


#: The attempt that the current thread works on. The lease travels here and never in message options: those are
#: serialised.
current: ContextVar[Attempt | None] = ContextVar("attempt", default=None)


def attempt_of(message: MessageProxy) -> Attempt:
    """The attempt of a delivery; made on first use."""
    attempt: Attempt | None = vars(message).get("attempt")
    if attempt is None:
        attempt = Attempt(delivery_id=message.message_id)
        _fill(attempt, message.args)
        message.attempt = attempt  # type: ignore[attr-defined]
    return attempt


def current_attempt() -> Attempt:
    """The attempt that the current thread works on. Raises LookupError outside a delivery."""
    attempt = current.get()
    if attempt is None:
        raise LookupError("there is no delivery in this context: actors are run by Dramatiq")
    return attempt


def _fill(attempt: Attempt, args: tuple[Any, ...]) -> None:
    match args:
        case (Job() as job,):
            attempt.job = job
        case (Reply() as reply,):
            attempt.reply = reply
