"""The key store of one machine: a SQLite file that its processes share."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from gateway.keys.store import (
    LEARNED,
    Blocked,
    Granted,
    Kind,
    MemberStatus,
    Rest,
    Ring,
    Source,
    account_subject,
    key_subject,
    model_subject,
)
from gateway.state_file import StateFile

#: How often a ring says that its keys are still in use, in seconds, and after how long without it they are forgotten.
SEEN_EVERY_S = 3600.0
FORGET_AFTER_S = 7 * 86400.0

#: The most rows that one transaction removes of what has ended.
PRUNE_ROWS = 100


#: A process that has just started does not know what another one has learned, and leaves it.
ENROL = """
INSERT INTO keys (digest, account, turn, seen_at) VALUES (?1, ?2, 0, ?3)
ON CONFLICT (digest) DO UPDATE SET seen_at = excluded.seen_at,
    account = CASE WHEN ?2 IS NULL AND keys.account LIKE ?4 THEN keys.account ELSE ?2 END
"""


class SqliteKeyStore:
    """Keeps the contract of `KeyStore` for the processes of one machine, across restarts."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def acquire(self, ring: Ring, model: str, lease: str) -> Granted | Blocked:
        with self._step(ring) as step:
            step.enrol()
            if step.rest_ends(model_subject(model)) > step.now:
                return step.blocked(model)
            while (digest := step.next_in_turn()) is not None:
                # What other settings have counted is checked against ours; it is settled one way or the other here.
                if step.refresh(digest) <= step.now:
                    step.use(digest, lease)
                    return Granted(digest, step.now)
            return step.blocked(model)

    def cancel(self, ring: Ring, digest: str, lease: str) -> None:
        with self._step(ring) as step:
            step.forget("uses", digest, lease)
            step.forget("flights", digest, lease)
            step.refresh(digest)

    def release(self, ring: Ring, digest: str, lease: str) -> None:
        with self._step(ring) as step:
            step.forget("flights", digest, lease)
            step.refresh(digest)

    def cool(self, ring: Ring, subject: str, rest: Rest) -> None:
        with self._step(ring) as step:
            step.enrol()
            step.cool(subject, rest)

    def clear(self, ring: Ring, digest: str) -> None:
        with self._step(ring) as step:
            for subject in step.subjects(digest):
                step.end_rest(subject)

    def ready_in_s(self, ring: Ring, model: str | None) -> float:
        with self._look(ring) as step:
            return step.ready_in_s(model)

    def status(self, ring: Ring) -> list[MemberStatus]:
        with self._look(ring) as step:
            return [step.status(member.digest) for member in ring.members]

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _step(self, ring: Ring) -> Iterator["_Step"]:
        with self._file.transaction() as db:
            # The time is read under the write lock, so that records are in the order of their times.
            step = _Step(db, ring, *_time(db, ring))
            yield step
            step.keep_time()

    @contextmanager
    def _look(self, ring: Ring) -> Iterator["_Step"]:
        with self._file.snapshot() as db:
            set_back = _is_set_back(db, ring)
        if set_back:
            with self._step(ring):
                pass  # notes where time goes on from: it would stand still for somebody who only looks
        with self._file.snapshot() as db:
            yield _Step(db, ring, *_time(db, ring))


def _time(db: sqlite3.Connection, ring: Ring) -> tuple[float, float]:
    """Now, and what was added to the clock for it: the store's time never goes back, whatever the clock does.

    After a clock was set back the store's time goes on from where it was, so every window and rest keeps its length.
    """
    latest, offset = db.execute("SELECT latest, offset FROM clock").fetchone()
    clock = (ring.clock or time.time)()
    if clock + offset < latest:
        offset = latest - clock
    return max(latest, clock + offset), offset


def _is_set_back(db: sqlite3.Connection, ring: Ring) -> bool:
    (offset,) = db.execute("SELECT offset FROM clock").fetchone()
    return bool(_time(db, ring)[1] != offset)


@dataclass(frozen=True)
class _Step:
    """One transaction, at one moment."""

    db: sqlite3.Connection
    ring: Ring
    now: float
    offset: float

    def keep_time(self) -> None:
        self.db.execute("UPDATE clock SET latest = ?, offset = ?", (self.now, self.offset))

    def enrol(self) -> None:
        """Have a row for every key of the ring; looked at closely once an hour."""
        seen = self.db.execute("SELECT seen_at FROM rings WHERE ring = ?", (self.ring.id,)).fetchone()
        if seen is not None and self.now - seen[0] < SEEN_EVERY_S:
            return
        self.db.execute("REPLACE INTO rings VALUES (?, ?)", (self.ring.id, self.now))
        for member in self.ring.members:
            self.db.execute(ENROL, (member.digest, member.account, self.now, f"{LEARNED}%"))
            self.refresh(member.digest)
        self._forget()

    def next_in_turn(self) -> str | None:
        """The least recently used key of the ring that may be used now."""
        if self._first_ready_at() > self.now:
            return None
        rows = self.db.execute("SELECT digest FROM keys WHERE ready_at <= ? ORDER BY turn, id", (self.now,))
        return self._first_member(rows)

    def use(self, digest: str, lease: str) -> None:
        self.db.execute("DELETE FROM uses WHERE digest = ? AND at <= ?", (digest, self.now - self.ring.window_s))
        self.db.execute("INSERT INTO uses VALUES (?, ?, ?)", (digest, self.now, lease))
        if self.ring.max_in_flight:
            self.db.execute("DELETE FROM flights WHERE digest = ? AND ends_at <= ?", (digest, self.now))
            self.db.execute("INSERT INTO flights VALUES (?, ?, ?)", (digest, self.now + self.ring.flight_s, lease))
        # Turns are counted, not timed: two uses at the same moment have an order, and clocks have no say in it.
        self.db.execute("UPDATE clock SET turn = turn + 1")
        self.db.execute("UPDATE keys SET turn = (SELECT turn FROM clock) WHERE digest = ?", (digest,))
        self.refresh(digest)

    def forget(self, table: Literal["uses", "flights"], digest: str, lease: str) -> None:
        self.db.execute(f"DELETE FROM {table} WHERE digest = ? AND lease = ?", (digest, lease))  # noqa: S608 - ours

    def refresh(self, digest: str) -> float:
        """Work out anew when the key may be used next, and return it."""
        window_until = self._window_until(digest)
        rest = self._rest_of(digest)
        rests_until, refused = (rest[0], rest[1] == Kind.REFUSED) if rest is not None else (0.0, False)
        ready_at = max(window_until, rests_until, self._flights_until(digest))
        self.db.execute(
            "UPDATE keys SET window_until = ?, rests_until = ?, refused = ?, ready_at = ? WHERE digest = ?",
            (window_until, rests_until, refused, ready_at, digest),
        )
        return ready_at

    def cool(self, subject: str, rest: Rest) -> None:
        self.db.execute(
            "INSERT INTO cooldowns VALUES (?, ?, ?, ?, ?) ON CONFLICT (subject) DO UPDATE SET until = excluded.until,"
            " kind = excluded.kind, source = excluded.source, reason = excluded.reason"
            " WHERE excluded.until > cooldowns.until",
            (subject, self.now + rest.seconds, rest.kind, rest.source, rest.reason),
        )
        self._refresh_all(subject)
        self.db.execute(
            "DELETE FROM cooldowns WHERE subject IN (SELECT subject FROM cooldowns WHERE until <= ? LIMIT ?)",
            (self.now, PRUNE_ROWS),
        )

    def end_rest(self, subject: str) -> None:
        self.db.execute("DELETE FROM cooldowns WHERE subject = ?", (subject,))
        self._refresh_all(subject)

    def subjects(self, digest: str) -> tuple[str, ...]:
        """What the key rests with: itself and its account."""
        row = self.db.execute("SELECT account FROM keys WHERE digest = ?", (digest,)).fetchone()
        account = row[0] if row is not None else None
        return (key_subject(digest),) if account is None else (key_subject(digest), account_subject(account))

    def rest_ends(self, subject: str) -> float:
        row = self.db.execute("SELECT until FROM cooldowns WHERE subject = ?", (subject,)).fetchone()
        return row[0] if row is not None else 0.0

    def blocked(self, model: str) -> Blocked:
        return Blocked(self.ready_in_s(model), self._all_refused())

    def ready_in_s(self, model: str | None) -> float:
        model_ready_at = self.rest_ends(model_subject(model)) if model is not None else 0.0
        return max(0.0, max(self._first_ready_at(), model_ready_at) - self.now)

    def status(self, digest: str) -> MemberStatus:
        since = self.now - self.ring.window_s
        (used,) = self.db.execute("SELECT count(*) FROM uses WHERE digest = ? AND at > ?", (digest, since)).fetchone()
        row = self._rest_of(digest)
        rest = None
        if row is not None and row[0] > self.now:
            rest = Rest(row[0] - self.now, Kind(row[1]), Source(row[2]), row[3])
        rests_until = row[0] if row is not None else 0.0
        ready_at = max(self._window_until(digest), rests_until, self._flights_until(digest))
        return MemberStatus(digest, used, max(0.0, ready_at - self.now), rest, self._in_flight(digest))

    def _window_until(self, digest: str) -> float:
        """When the window of the key has a place again; in the past when it has one."""
        row = self.db.execute(
            "SELECT at FROM uses WHERE digest = ? ORDER BY at DESC LIMIT 1 OFFSET ?", (digest, self.ring.limit - 1)
        ).fetchone()
        return row[0] + self.ring.window_s if row is not None else 0.0

    def _flights_until(self, digest: str) -> float:
        """When one more call may be in flight, if no lease is released before; in the past when one may now."""
        if not self.ring.max_in_flight:
            return 0.0
        row = self.db.execute(
            "SELECT ends_at FROM flights WHERE digest = ? ORDER BY ends_at DESC LIMIT 1 OFFSET ?",
            (digest, self.ring.max_in_flight - 1),
        ).fetchone()
        return row[0] if row is not None else 0.0

    def _in_flight(self, digest: str) -> int:
        if not self.ring.max_in_flight:
            return 0
        query = "SELECT count(*) FROM flights WHERE digest = ? AND ends_at > ?"
        (found,) = self.db.execute(query, (digest, self.now)).fetchone()
        return int(found)

    def _rest_of(self, digest: str) -> tuple[float, str, str, str] | None:
        """The rest of the key or of its account, whichever ends later: until, kind, source, reason.

        Of two that end together it is the refusal.
        """
        subjects = self.subjects(digest)
        row: tuple[float, str, str, str] | None = self.db.execute(
            "SELECT until, kind, source, reason FROM cooldowns WHERE subject IN (?, ?)"
            " ORDER BY until DESC, kind DESC LIMIT 1",
            (subjects[0], subjects[-1]),
        ).fetchone()
        return row

    def _refresh_all(self, subject: str) -> None:
        scope, _, name = subject.partition(":")
        if scope == "key":
            self.refresh(name)
        elif scope == "account":
            for (digest,) in self.db.execute("SELECT digest FROM keys WHERE account = ?", (name,)).fetchall():
                self.refresh(digest)

    def _first_ready_at(self) -> float:
        if self._is_new():
            return 0.0
        for digest, ready_at in self.db.execute("SELECT digest, ready_at FROM keys ORDER BY ready_at"):
            if digest in self.ring.digests:
                return float(ready_at)
        return 0.0

    def _is_new(self) -> bool:
        """Nothing was ever asked for this ring."""
        return self.db.execute("SELECT 1 FROM rings WHERE ring = ?", (self.ring.id,)).fetchone() is None

    def _all_refused(self) -> bool:
        rows = self.db.execute(
            "SELECT digest FROM keys WHERE refused = 0"
            " UNION ALL SELECT digest FROM keys WHERE refused = 1 AND rests_until <= ?",
            (self.now,),
        )
        return self._first_member(rows) is None

    def _first_member(self, rows: sqlite3.Cursor) -> str | None:
        """The file may know keys of other rings: of an older configuration, or of another program's."""
        return next((digest for (digest,) in rows if digest in self.ring.digests), None)

    def _forget(self) -> None:
        """Remove some of what nobody has used for a week."""
        before = self.now - FORGET_AFTER_S
        gone = self.db.execute("SELECT digest FROM keys WHERE seen_at < ? LIMIT ?", (before, PRUNE_ROWS)).fetchall()
        for table in ("uses", "flights", "keys"):
            self.db.executemany(f"DELETE FROM {table} WHERE digest = ?", gone)  # noqa: S608 - names of ours
        self.db.execute("DELETE FROM rings WHERE seen_at < ?", (before,))
