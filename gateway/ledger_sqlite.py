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


class SqliteLedger:
    """Keeps the contract of `Ledger`; an answer is kept for `ttl_s` seconds.

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
        with self._file.transaction() as db:
            now = self._clock()
            if _answer(db, work, now) is None:
                db.execute(
                    "REPLACE INTO ledger VALUES (?, ?, 1, ?, ?, 0.0, ?, ?, 0, ?, ?, 0)",
                    (work.request_id, work.digest, token, delivery, message_id, failure, now + self._ttl_s, envelope),
                )
        if next(self._answers) % SWEEP_EVERY == 0:
            with suppress(StoreUnavailable):  # the answer is stored; what has expired can wait
                self.sweep(2 * SWEEP_EVERY)

    def published(self, work: Work) -> None:
        with self._file.transaction() as db:
            db.execute(
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
        with self._file.transaction() as db:
            now = self._clock()
            answer = _answer(db, work, now)
            if answer is not None and not (replace_failure and answer.failure):
                return answer
            remaining_s = _lease_remaining_s(db, work, now)
            if remaining_s > lease_s:  # longer than any lease: the clock was set back since it began
                remaining_s = lease_s
                _set_lease_end(db, work, now + lease_s)
            if remaining_s > 0:
                return Running(remaining_s)
            if _hop(db, work, delivery) > hop:
                return Superseded()
            token = uuid.uuid4().hex
            db.execute(
                "REPLACE INTO ledger VALUES (?, ?, 0, ?, ?, ?, NULL, NULL, 0, ?, NULL, ?)",
                (work.request_id, work.digest, token, delivery, now + lease_s, now + lease_s + self._ttl_s, hop),
            )
            return Started(token)


def _answer(db: sqlite3.Connection, work: Work, now: float) -> Answered | None:
    row = db.execute(
        "SELECT envelope, message_id, published, delivery, failure FROM ledger"
        " WHERE request_id = ? AND digest = ? AND answered AND expires_at > ?",
        (work.request_id, work.digest, now),
    ).fetchone()
    if row is None:
        return None
    envelope, message_id, published, delivery, failure = row
    return Answered(envelope, message_id, bool(published), delivery, bool(failure))


def _lease_remaining_s(db: sqlite3.Connection, work: Work, now: float) -> float:
    row = db.execute(
        "SELECT lease_ends_at FROM ledger WHERE request_id = ? AND digest = ? AND NOT answered",
        (work.request_id, work.digest),
    ).fetchone()
    return float(row[0]) - now if row is not None else 0.0


def _hop(db: sqlite3.Connection, work: Work, delivery: str) -> int:
    """The number of the latest copy of this delivery that is known of."""
    row = db.execute(
        "SELECT hop FROM ledger WHERE request_id = ? AND digest = ? AND delivery = ? AND NOT answered",
        (work.request_id, work.digest, delivery),
    ).fetchone()
    return int(row[0]) if row is not None else 0


def _set_lease_end(db: sqlite3.Connection, work: Work, at: float) -> None:
    db.execute(
        "UPDATE ledger SET lease_ends_at = ? WHERE request_id = ? AND digest = ?", (at, work.request_id, work.digest)
    )
