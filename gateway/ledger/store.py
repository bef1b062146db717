"""The ledger: what was asked, whether a call for it runs, and what was answered.

A piece of work is in one of three states:

    unknown ── begin ──▶ running ── answer ──▶ answered ── ttl ──▶ unknown
                  ▲          │ abandon, scheduled, or its lease ends
                  └──────────┘
"""

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Protocol

from gateway.messages import Job


@dataclass(frozen=True)
class Work:
    """The identity of a piece of work: the request's id, and a digest of everything that decides its answer.

    With the digest a reused `request_id` with another prompt is other work, and never gets somebody else's answer.
    """

    request_id: str
    digest: str

    @classmethod
    def of(cls, job: Job) -> "Work":
        content = job.request.model_dump(
            mode="json",
            include={"prompt", "model", "parameters", "system_instruction", "metadata", "callback_queue"},
        )
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return cls(job.request_id, hashlib.sha256(text.encode()).hexdigest())


@dataclass(frozen=True)
class Started:
    """The work is the caller's: it holds the lease under `token`, and is `delivery` from now on."""

    token: str
    delivery: str


@dataclass(frozen=True)
class Running:
    """Somebody else holds the lease, for `lease_ends_in_s` seconds more at most."""

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

    def begin(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float, redelivered: bool = False) -> Entry:
        """Start the work for `lease_s` seconds, unless it runs elsewhere, is answered, or a later copy will do it.

        A lease that has ended is taken over. Superseded is only a delivery of which a later copy is known. What was
        `redelivered` has had another name when it came before: it goes on as the delivery that is known of the work.
        """

    def restart(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float) -> Entry:
        """As `begin`, but an answer that is a failure is given up for a new start."""

    def answer(  # noqa: PLR0913 - facts of the answer, all by name
        self, work: Work, token: str, *, envelope: bytes, message_id: str, failure: bool, delivery: str
    ) -> None:
        """Store the envelope; when this returns, it survives the death of this process.

        It is stored even if the lease was lost meanwhile, since it is paid for; the first answer stays.
        """

    def published(self, work: Work) -> None:
        """Note that the envelope was confirmed by RabbitMQ."""

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int) -> None:
        """Give the work back: copy number `hop` of the delivery is confirmed in a queue, and earlier ones are done.

        A token that holds no lease changes nothing.
        """

    def abandon(self, work: Work, token: str) -> None:
        """Give the work back unanswered. Idempotent; a token that holds no lease changes nothing."""


class NullLedger:
    """Remembers nothing (LEDGER_TTL_SECONDS=0): every delivery is started, a redelivery is paid for again."""

    def begin(  # the protocol's names
        self,
        work: Work,  # noqa: ARG002
        *,
        delivery: str,
        hop: int = 0,  # noqa: ARG002
        lease_s: float,  # noqa: ARG002
        redelivered: bool = False,  # noqa: ARG002
    ) -> Started:
        return Started(uuid.uuid4().hex, delivery)

    def restart(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float) -> Started:
        return self.begin(work, delivery=delivery, hop=hop, lease_s=lease_s)

    def answer(  # noqa: PLR0913 - as the protocol has it
        self, work: Work, token: str, *, envelope: bytes, message_id: str, failure: bool, delivery: str
    ) -> None:
        """Nothing is kept."""

    def published(self, work: Work) -> None:
        """Nothing is kept."""

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int) -> None:
        """Nothing is kept."""

    def abandon(self, work: Work, token: str) -> None:
        """Nothing is kept."""
