"""The ledger: what was asked, whether a call for it runs, and what was answered.

A piece of work is in one of four states:

    unknown ── begin ──▶ running ── answer ──▶ answered ── published ──▶ published ── ttl ──▶ unknown
       ▲                    │
       └────────────────────┘ abandon, scheduled

Work that runs, or whose answer is about to be published, belongs to the token that has begun it, until its lease ends
or until its holder is known to be dead (`gateway/ledger/owner.py`). Then the next one that begins takes it over.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.messages import Job

#: What of a request does not decide its answer.
_NO_CONTENT = {"request_id", "timestamp", "retry_count", "expires_at", "expires_in_s", "priority", "stream"}

#: What is in every digest, given or not. What was added later is in it where it is given: so the digest of an older
#: request is the one that it had.
_WITHOUT: dict[str, Any] = dict.fromkeys(("prompt", "model", "system_instruction", "metadata"))
_WITHOUT_PARAMETERS: dict[str, Any] = dict.fromkeys(("temperature", "top_p", "top_k", "max_output_tokens"))


@dataclass(frozen=True)
class Work:
    """The identity of a piece of work: the request's id, and a digest of everything that decides its answer.

    With the digest a reused `request_id` with another prompt is other work, and never gets somebody else's answer.
    """

    request_id: str
    digest: str

    @classmethod
    def of(cls, job: Job) -> "Work":
        given = job.request.model_dump(mode="json", exclude=_NO_CONTENT, exclude_none=True)
        content = _WITHOUT | given | {"parameters": _WITHOUT_PARAMETERS | given["parameters"]}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return cls(job.request_id, hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True)
class Claim:
    """Who wants to begin which work, as copy number `hop` of a delivery, for at most `lease_s` seconds.

    `token` is one for an attempt, however often it asks: who asks again because an answer was lost has begun already.
    What was `redelivered` has had another name when it came before: it goes on as the delivery that is known of the
    work. With `replace_failure` an answer that is a failure is given up for a new start. `dead` is the token of a
    holder that is known to live no longer.
    """

    work: Work
    token: str
    delivery: str
    lease_s: float
    hop: int = 0
    redelivered: bool = False
    replace_failure: bool = False
    dead: str = ""


@dataclass(frozen=True)
class Started:
    """The work belongs to the token of the claim, and is `delivery` from now on.

    `cancelled`: its sender does not want it any more, so it is to be ended, and not called for.
    """

    delivery: str
    cancelled: bool = False


@dataclass(frozen=True)
class Running:
    """The work, or the publishing of its answer, belongs to `token`, for `lease_ends_in_s` seconds more at most."""

    token: str
    lease_ends_in_s: float


@dataclass(frozen=True)
class Superseded:
    """A later copy of this very delivery is in a queue, confirmed: there is nothing left to do for this one."""


@dataclass(frozen=True)
class Answered:
    """The finished envelope of the work; `delivery` is the delivery that was answered, `failure` an error envelope."""

    envelope: bytes = field(repr=False)
    message_id: str
    published: bool
    delivery: str
    failure: bool


Entry = Started | Running | Superseded | Answered


class Ledger(Protocol):
    """Each method is one atomic step and raises StoreUnavailable when the store cannot be used."""

    def begin(self, claim: Claim) -> Entry:
        """Start the work, unless it runs elsewhere, is answered, or a later copy of the delivery will do it.

        Work whose lease has ended or whose holder is dead is taken over. Superseded is only a delivery of which a later
        copy is known. An answer that is Answered and not published belongs to the claim's token: it is to publish it.
        """

    def answer(  # noqa: PLR0913 - facts of the answer, all by name
        self, work: Work, token: str, *, envelope: bytes, message_id: str, failure: bool, delivery: str
    ) -> bool:
        """Store the envelope; when this returns, it survives the death of this process. Publishing it is the token's.

        It is stored even if the lease was lost meanwhile, since it is paid for. But the first answer stays: False says
        that somebody who has taken the work over was faster.
        """

    def published(self, work: Work) -> None:
        """Note that the envelope was confirmed by RabbitMQ."""

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int) -> None:
        """Give the work back: copy number `hop` of the delivery is confirmed in a queue, and earlier ones are done.

        A token that holds no lease changes nothing.
        """

    def abandon(self, work: Work, token: str) -> None:
        """Give the work back: what runs is unknown again, and an answer is for the next one to publish.

        Idempotent; a token that holds no lease changes nothing.
        """

    def cancel(self, request_id: str) -> bool:
        """Mark the id: work of it that is begun from now on is Started as cancelled, as long as answers are kept.

        What is answered stays so, and what runs goes on. Idempotent; False where nothing is remembered.
        """


class NullLedger:
    """Remembers nothing (LEDGER_TTL_SECONDS=0): every delivery is started, a redelivery is paid for again."""

    def begin(self, claim: Claim) -> Started:
        return Started(claim.delivery)

    def answer(self, *_: object, **__: object) -> bool:
        return True

    def published(self, work: Work) -> None:
        """Nothing is kept."""

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int) -> None:
        """Nothing is kept."""

    def abandon(self, work: Work, token: str) -> None:
        """Nothing is kept."""

    def cancel(self, *_: object) -> bool:
        return False
