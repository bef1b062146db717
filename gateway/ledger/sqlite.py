"""The ledger of one machine: a table in the SQLite file that its processes share."""

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from gateway.costs.call import PaidCall
from gateway.costs.sqlite import BOOK, booking
from gateway.errors import StoreUnavailable
from gateway.ledger.store import Answered, Claim, Entry, Running, Started, Superseded, Work
from gateway.stores.state_file import StateFile

#: How many answers between two sweeps, and how many entries each removes: more than were added since the last.
SWEEP_EVERY, SWEEP_ROWS = 100, 200

# Each is one statement, which SQLite makes one transaction. A thread gives up the interpreter at every statement, and
# queues for it again, all the while with the file's lock in its hand.

#: The mark of an id that its sender has cancelled is an entry for no content, which is no work's digest.
CANCELLED = ""

#: Starts work that is unknown, that nobody holds, or whose answer is over or to be replaced; returns a row then.
CLAIM = """
INSERT INTO ledger (request_id, digest, answered, token, delivery, hop, lease_ends_at, published, expires_at)
VALUES (:request_id, :digest, 0, :token, :delivery, :hop, :lease_ends_at, 0, :expires_at)
ON CONFLICT (request_id, digest) DO UPDATE SET
    answered = 0, token = excluded.token, hop = excluded.hop,
    delivery = CASE WHEN :redelivered THEN delivery ELSE excluded.delivery END,
    lease_ends_at = excluded.lease_ends_at, published = 0, expires_at = excluded.expires_at,
    message_id = NULL, failure = NULL, envelope = NULL
WHERE CASE WHEN answered THEN expires_at <= :now OR (failure AND :replace_failure)
      ELSE (lease_ends_at <= :now OR token IN (:token, :dead))
          AND NOT ((delivery = :delivery OR :redelivered) AND hop > :hop AND expires_at > :now) END
RETURNING delivery, EXISTS (
    SELECT 1 FROM ledger AS mark WHERE mark.request_id = :request_id AND mark.digest = '' AND mark.expires_at > :now
)
"""

CANCEL = """
INSERT INTO ledger (request_id, digest, answered, token, delivery, hop, lease_ends_at, published, expires_at)
VALUES (?, ?, 0, '', '', 0, 0.0, 0, ?)
ON CONFLICT (request_id, digest) DO UPDATE SET expires_at = excluded.expires_at
"""

MARKED = """
SELECT request_id FROM ledger
WHERE digest = '' AND expires_at > ? AND request_id IN (SELECT value FROM json_each(?))
"""

#: Stores an answer, and returns a row, unless there is somebody else's already. The last parameter is the time. The
#: lease goes on: it is one for the publishing now.
ANSWER = """
INSERT INTO ledger (request_id, digest, answered, token, delivery, lease_ends_at, message_id, failure, published,
    expires_at, envelope, hop)
VALUES (?1, ?2, 1, ?3, ?4, 0.0, ?5, ?6, 0, ?7, ?8, 0)
ON CONFLICT (request_id, digest) DO UPDATE SET
    answered = 1, token = excluded.token, delivery = excluded.delivery,
    message_id = excluded.message_id, failure = excluded.failure, published = 0,
    envelope = excluded.envelope, hop = 0
WHERE NOT answered OR expires_at <= ?9 OR token = excluded.token
RETURNING 1
"""

ENTRY = """
SELECT answered, envelope, message_id, published, delivery, failure, lease_ends_at, token
FROM ledger WHERE request_id = :request_id AND digest = :digest
"""

#: An answer that nobody else publishes is the claim's to publish.
TAKE = """
UPDATE ledger SET token = :token, lease_ends_at = :lease_ends_at WHERE request_id = :request_id AND digest = :digest
"""

#: A lease that was given while the clock was ahead ends as if it were given now.
SHORTEN = "UPDATE ledger SET lease_ends_at = :lease_ends_at WHERE request_id = :request_id AND digest = :digest"

#: What nobody holds any more: work that runs is forgotten, an answer is for the next one to publish.
ABANDON = "DELETE FROM ledger WHERE request_id = ?1 AND digest = ?2 AND token = ?3 AND NOT answered"
LET_GO = "UPDATE ledger SET lease_ends_at = 0.0 WHERE request_id = ?1 AND digest = ?2 AND token = ?3 AND answered"


class SqliteLedger:
    """Keeps the contract of `Ledger`; an answer is kept for `ttl_s` seconds after the end of its lease.

    An answer survives SIGKILL of the process at any time after `answer` has returned. A power cut can cost the answers
    of the last moments, see `StateFile`.
    """

    def __init__(
        self, file: StateFile, *, ttl_s: float, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._added = itertools.count(1)

    def begin(self, claim: Claim) -> Entry:
        facts = {**vars(claim), **vars(claim.work), **self._times(claim.lease_s)}
        del facts["work"]
        if rows := self._file.run(CLAIM, facts):
            return _started(rows)  # as a rule, and in one statement
        # Why not is true of one moment only: so the claim is made again, in one transaction with the look, at one time.
        with self._file.transaction() as db:
            facts |= self._times(claim.lease_s)
            rows = db.execute(CLAIM, facts).fetchall()
            return _started(rows) if rows else _found(db, facts)

    def answer(  # noqa: PLR0913 - as the protocol has it
        self,
        work: Work,
        token: str,
        *,
        envelope: bytes,
        message_id: str,
        failure: bool,
        delivery: str,
        paid: Sequence[PaidCall] = (),
    ) -> bool:
        now = self._clock()
        answer = (work.request_id, work.digest, token, delivery, message_id, failure, now + self._ttl_s, envelope, now)
        if paid:
            with self._file.transaction() as db:
                found = db.execute(ANSWER, answer).fetchall()
                db.executemany(BOOK, booking(paid, now))
        else:
            found = self._file.run(ANSWER, answer)  # in one statement
        self._sweep_now_and_then()
        return bool(found)

    def published(self, work: Work) -> None:
        self._file.run(
            "UPDATE ledger SET published = 1 WHERE request_id = ? AND digest = ? AND answered",
            (work.request_id, work.digest),
        )

    def scheduled(self, work: Work, token: str, *, delivery: str, hop: int, paid: Sequence[PaidCall] = ()) -> None:
        with self._file.transaction() as db:
            db.executemany(BOOK, booking(paid, self._clock()))
            db.execute(
                "UPDATE ledger SET token = '', delivery = ?, hop = ?, lease_ends_at = 0.0, expires_at = ?"
                " WHERE request_id = ? AND digest = ? AND token = ? AND NOT answered",
                (delivery, hop, self._clock() + self._ttl_s, work.request_id, work.digest, token),
            )

    def abandon(self, work: Work, token: str) -> None:
        with self._file.transaction() as db:
            for statement in (ABANDON, LET_GO):
                db.execute(statement, (work.request_id, work.digest, token))

    def cancel(self, request_id: str) -> bool:
        self._file.run(CANCEL, (request_id, CANCELLED, self._clock() + self._ttl_s))
        self._sweep_now_and_then()
        return True

    def cancelled(self, request_ids: Collection[str]) -> set[str]:
        with self._file.snapshot() as db:
            rows = db.execute(MARKED, (self._clock(), json.dumps(list(request_ids)))).fetchall()
        return {request_id for (request_id,) in rows}

    def _times(self, lease_s: float) -> dict[str, float]:
        now = self._clock()
        # The answer does not touch the end of the entry again, and is the cheaper for it.
        return {"now": now, "lease_ends_at": now + lease_s, "expires_at": now + lease_s + self._ttl_s}

    def _sweep_now_and_then(self) -> None:
        """After every so many entries that stay."""
        if next(self._added) % SWEEP_EVERY == 0:
            with suppress(StoreUnavailable):  # what was to be stored is; what has expired can wait
                self._sweep()

    def _sweep(self) -> None:
        """Remove some entries that have expired, and where the file is too large some that were delivered."""
        with self._file.transaction() as db:
            now = self._clock()
            # Entries made while the clock was ahead, or under a longer LEDGER_TTL_SECONDS, end as if made now.
            db.execute(
                "UPDATE ledger SET expires_at = ?1"
                " WHERE rowid IN (SELECT rowid FROM ledger WHERE expires_at > ?1 AND answered LIMIT ?2)",
                (now + self._ttl_s, SWEEP_ROWS),
            )
            db.execute(
                "DELETE FROM ledger WHERE rowid IN (SELECT rowid FROM ledger WHERE expires_at <= ? LIMIT ?)",
                (now, SWEEP_ROWS),
            )
            if _used_bytes(db) > self._max_bytes:
                db.execute(
                    "DELETE FROM ledger WHERE rowid IN"
                    " (SELECT rowid FROM ledger WHERE answered AND published ORDER BY expires_at LIMIT ?)",
                    (SWEEP_ROWS,),
                )


def _used_bytes(db: sqlite3.Connection) -> int:
    """What lies in the file, without the room that it has for more."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _started(rows: list[Any]) -> Started:
    delivery, cancelled = rows[0]
    return Started(delivery, cancelled=bool(cancelled))


def _found(db: sqlite3.Connection, claim: dict[str, Any]) -> Entry:
    """Why the claim was refused, in its own transaction."""
    (answered, envelope, message_id, published, delivery, failure, lease_ends_at, token) = db.execute(
        ENTRY, claim
    ).fetchone()
    left_s = lease_ends_at - claim["now"]
    held = left_s > 0 and token not in {claim["token"], claim["dead"]}
    if answered and (published or not held):
        if not published:
            db.execute(TAKE, claim)
        return Answered(envelope, message_id, bool(published), delivery, bool(failure))
    if not held:
        return Superseded()
    if left_s > claim["lease_s"]:  # longer than any lease: the clock was set back since it began
        left_s = claim["lease_s"]
        db.execute(SHORTEN, claim)
    return Running(token, left_s)
