"""The ledger of one machine: a table in the SQLite file that its processes share."""

import itertools
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import StoreUnavailable
from gateway.ledger import Answered, Entry, Running, Started, Superseded, Work
from gateway.state_file import StateFile

#: How many answers between two sweeps; a sweep removes more entries than were added since the last.
SWEEP_EVERY = 100

# Each is one statement, which SQLite makes one transaction. A thread gives up the interpreter at every statement, and
# queues for it again, all the while with the file's lock in its hand.

#: Starts work that is unknown, whose lease has ended, or whose answer is over or to be replaced; returns a row then.
CLAIM = """
INSERT INTO ledger (request_id, digest, answered, token, delivery, hop, lease_ends_at, published, expires_at)
VALUES (:request_id, :digest, 0, :token, :delivery, :hop, :lease_ends_at, 0, :expires_at)
ON CONFLICT (request_id, digest) DO UPDATE SET
    answered = 0, token = excluded.token, delivery = excluded.delivery, hop = excluded.hop,
    lease_ends_at = excluded.lease_ends_at, published = 0, expires_at = excluded.expires_at,
    message_id = NULL, failure = NULL, envelope = NULL
WHERE CASE WHEN answered THEN expires_at <= :now OR (failure AND :replace_failure)
      ELSE lease_ends_at <= :now AND NOT (delivery = :delivery AND hop > :hop) END
RETURNING 1
"""

#: Stores an answer, unless there is one already. The last parameter is the time.
ANSWER = """
INSERT INTO ledger (request_id, digest, answered, token, delivery, lease_ends_at, message_id, failure, published,
    expires_at, envelope, hop)
VALUES (?1, ?2, 1, ?3, ?4, 0.0, ?5, ?6, 0, ?7, ?8, 0)
ON CONFLICT (request_id, digest) DO UPDATE SET
    answered = 1, token = excluded.token, delivery = excluded.delivery, lease_ends_at = 0.0,
    message_id = excluded.message_id, failure = excluded.failure, published = 0,
    envelope = excluded.envelope, hop = 0
WHERE NOT answered OR expires_at <= ?9
"""

ENTRY = """
SELECT answered, envelope, message_id, published, delivery, failure, lease_ends_at, hop
FROM ledger WHERE request_id = ? AND digest = ?
"""


class SqliteLedger:
    """Keeps the contract of `Ledger`; an answer is kept for `ttl_s` seconds after the end of its lease.

    An answer survives SIGKILL of the process at any time after `answer` has returned. A power cut can cost the answers
    of the last moments, see `StateFile`.
    """

    def __init__(self, file: StateFile, *, ttl_s: float, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._ttl_s = ttl_s
        self._clock = clock
        self._answers = itertools.count(1)

    def begin(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float) -> Entry:
        return self._begin(work, delivery, hop, lease_s, replace_failure=False)

    def restart(self, work: Work, *, delivery: str, hop: int = 0, lease_s: float) -> Entry:
        return self._begin(work, delivery, hop, lease_s, replace_failure=True)

    def answer(  # noqa: PLR0913 - as the protocol has it
        self, work: Work, token: str, *, envelope: bytes, message_id: str, failure: bool, delivery: str
    ) -> None:
        now = self._clock()
        answer = (work.request_id, work.digest, token, delivery, message_id, failure, now + self._ttl_s, envelope, now)
        self._file.run(ANSWER, answer)
        if next(self._answers) % SWEEP_EVERY == 0:
            with suppress(StoreUnavailable):  # the answer is stored; what has expired can wait
                self.sweep(2 * SWEEP_EVERY)

    def published(self, work: Work) -> None:
        self._file.run(
            "UPDATE ledger SET published = 1 WHERE request_id = ? AND digest = ? AND answered",
            (work.request_id, work.digest),
        )

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int) -> None:
        with self._file.transaction() as db:
            db.execute(
                "UPDATE ledger SET token = '', delivery = ?, hop = ?, lease_ends_at = 0.0, expires_at = ?"
                " WHERE request_id = ? AND digest = ? AND token = ? AND NOT answered",
                (delivery, hop, self._clock() + self._ttl_s, work.request_id, work.digest, token),
            )

    def abandon(self, work: Work, token: str) -> None:
        with self._file.transaction() as db:
            db.execute(
                "DELETE FROM ledger WHERE request_id = ? AND digest = ? AND token = ? AND NOT answered",
                (work.request_id, work.digest, token),
            )

    def sweep(self, limit: int = 500) -> int:
        with self._file.transaction() as db:
            now = self._clock()
            # Entries made while the clock was ahead, or under a longer LEDGER_TTL_SECONDS, end as if made now.
            db.execute(
                "UPDATE ledger SET expires_at = ?1"
                " WHERE rowid IN (SELECT rowid FROM ledger WHERE expires_at > ?1 AND answered LIMIT ?2)",
                (now + self._ttl_s, limit),
            )
            return db.execute(
                "DELETE FROM ledger WHERE rowid IN (SELECT rowid FROM ledger WHERE expires_at <= ? LIMIT ?)",
                (now, limit),
            ).rowcount

    def _begin(self, work: Work, delivery: str, hop: int, lease_s: float, *, replace_failure: bool) -> Entry:
        token = uuid.uuid4().hex

        def claim(now: float) -> dict[str, object]:
            return {
                "request_id": work.request_id,
                "digest": work.digest,
                "token": token,
                "delivery": delivery,
                "hop": hop,
                "now": now,
                "lease_ends_at": now + lease_s,
                # Not touched again by the answer, which is the cheaper for it.
                "expires_at": now + lease_s + self._ttl_s,
                "replace_failure": replace_failure,
            }

        if self._file.run(CLAIM, claim(self._clock())):
            return Started(token)  # as a rule, and in one statement
        # What is found says something about the moment of the claim only: so both are one transaction, at one time.
        with self._file.transaction() as db:
            now = self._clock()
            if db.execute(CLAIM, claim(now)).fetchall():
                return Started(token)
            return self._found(db, work, delivery, hop, lease_s, now)

    @staticmethod
    def _found(db: sqlite3.Connection, work: Work, delivery: str, hop: int, lease_s: float, now: float) -> Entry:
        """Why the work could not be claimed at `now`, in the same transaction."""
        (answered, envelope, message_id, published, entered, failure, lease_ends_at, entered_hop) = db.execute(
            ENTRY, (work.request_id, work.digest)
        ).fetchone()
        if answered:
            return Answered(envelope, message_id, bool(published), entered, bool(failure))
        if lease_ends_at <= now and entered == delivery and entered_hop > hop:
            return Superseded()
        if lease_ends_at - now > lease_s:  # longer than any lease: the clock was set back since it began
            lease_ends_at = now + lease_s
            db.execute(
                "UPDATE ledger SET lease_ends_at = ? WHERE request_id = ? AND digest = ?",
                (lease_ends_at, work.request_id, work.digest),
            )
        return Running(max(0.0, lease_ends_at - now))
