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
    KeySet,
    Kind,
    Rest,
    Source,
    StoredKeyStatus,
    account_subject,
    key_subject,
    model_subject,
)
from gateway.stores.state_file import StateFile

#: How often a set says that its keys are still in use, in seconds, and after how long without it they are forgotten.
SEEN_EVERY_S = 3600.0
FORGET_AFTER_S = 7 * 86400.0

#: The most rows that one transaction removes of what has ended.
PRUNE_ROWS = 100


#: A process that has just started does not know what another one has learned, and leaves it.
REGISTER = """
INSERT INTO keys (digest, account, turn, seen_at) VALUES (?1, ?2, 0, ?3)
ON CONFLICT (digest) DO UPDATE SET seen_at = excluded.seen_at,
    account = CASE WHEN ?2 IS NULL AND keys.account LIKE ?4 THEN keys.account ELSE ?2 END
"""


#: Each statement costs more than what it does: a transaction begins with all that it needs to know.
OPENING = "SELECT latest, offset, (SELECT seen_at FROM key_sets WHERE key_set = ?) FROM clock"

#: Keys that may be used at a moment, least recently used first.
IN_TURN = "SELECT digest, ready_at, rests_until, refused, used FROM keys WHERE ready_at <= ? ORDER BY turn, id"

#: What is known of a key, in the order of `_State.columns`.
NOTE = "window_until = ?, rests_until = ?, refused = ?, ready_at = ? WHERE digest = ?"


class SqliteKeyStore:
    """Keeps the contract of `KeyStore` for the processes of one machine, across restarts."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        with self._step(key_set) as step:
            step.register()
            if step.rest_ends(model_subject(model)) > step.now:
                return step.blocked(model)
            while (found := step.next_in_turn()) is not None:
                digest, ready_at, state = found
                if state.ready_at <= step.now:
                    step.use(digest, lease, state, was_ready_at=ready_at)
                    return Granted(digest, step.now)
                step.note(digest, state)
            return step.blocked(model)

    def cancel(self, key_set: KeySet, digest: str, lease: str) -> None:
        with self._step(key_set) as step:
            step.forget("uses", digest, lease)
            step.forget("flights", digest, lease)
            step.refresh(digest)

    def release(self, key_set: KeySet, digest: str, lease: str) -> None:
        with self._step(key_set) as step:
            step.forget("flights", digest, lease)
            step.refresh(digest)

    def cool(self, key_set: KeySet, subject: str, rest: Rest) -> None:
        with self._step(key_set) as step:
            step.register()
            step.cool(subject, rest)

    def clear(self, key_set: KeySet, digest: str, reason: str | None = None) -> None:
        with self._step(key_set) as step:
            for subject in step.subjects(digest):
                step.end_rest(subject, reason)

    def ready_in_s(self, key_set: KeySet, model: str | None) -> float:
        with self._look(key_set) as step:
            return step.ready_in_s(model)

    def status(self, key_set: KeySet) -> list[StoredKeyStatus]:
        with self._look(key_set) as step:
            return [step.status(key.digest) for key in key_set.keys]

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _step(self, key_set: KeySet) -> Iterator["_Step"]:
        with self._file.transaction() as db:
            # The time is read under the write lock, so that records are in the order of their times.
            step = _Step(db, key_set, *_opening(db, key_set))
            yield step
            step.keep_time()

    @contextmanager
    def _look(self, key_set: KeySet) -> Iterator["_Step"]:
        with self._file.snapshot() as db:
            set_back = _is_set_back(db, key_set)
        if set_back:
            with self._step(key_set):
                pass  # notes where time goes on from: it would stand still for somebody who only looks
        with self._file.snapshot() as db:
            yield _Step(db, key_set, *_opening(db, key_set))


def _opening(db: sqlite3.Connection, key_set: KeySet) -> tuple[float, float, float | None]:
    """Now, what was added to the clock for it, and when the key set was last looked at closely.

    The store's time never goes back, whatever the clock does: after a clock was set back it goes on from where it was,
    so every window and rest keeps its length.
    """
    latest, offset, seen_at = db.execute(OPENING, (key_set.id,)).fetchone()
    clock = (key_set.clock or time.time)()
    if clock + offset < latest:
        offset = latest - clock
    return max(latest, clock + offset), offset, seen_at


def _is_set_back(db: sqlite3.Connection, key_set: KeySet) -> bool:
    (offset,) = db.execute("SELECT offset FROM clock").fetchone()
    return bool(_opening(db, key_set)[1] != offset)


@dataclass(frozen=True, slots=True)
class _State:
    """Until when a key is kept by its window, by a rest of itself or its account, and by its calls in flight."""

    window_until: float
    rests_until: float
    refused: bool
    flights_until: float
    used: int

    @property
    def ready_at(self) -> float:
        return max(self.window_until, self.rests_until, self.flights_until)

    @property
    def columns(self) -> tuple[float, float, bool, float]:
        """As they are stored: window_until, rests_until, refused, ready_at."""
        return self.window_until, self.rests_until, self.refused, self.ready_at


@dataclass(frozen=True, slots=True)
class _Step:
    """One transaction, at one moment."""

    db: sqlite3.Connection
    key_set: KeySet
    now: float
    offset: float
    seen_at: float | None

    def keep_time(self) -> None:
        # Turns are counted, not timed: two uses at the same moment have an order, and clocks have no say in it.
        self.db.execute("UPDATE clock SET latest = ?, offset = ?, turn = turn + 1", (self.now, self.offset))

    def register(self) -> None:
        """Have a row for every key of the key set; looked at closely once an hour."""
        if self.seen_at is not None and self.now - self.seen_at < SEEN_EVERY_S:
            return
        self.db.execute("REPLACE INTO key_sets VALUES (?, ?)", (self.key_set.id, self.now))
        for key in self.key_set.keys:
            self.db.execute(REGISTER, (key.digest, key.account, self.now, f"{LEARNED}%"))
            self.refresh(key.digest)
        self._forget()

    def next_in_turn(self) -> tuple[str, float, "_State"] | None:
        """The least recently used key of the key_set, which is registered, that may be used now as far as its row says.

        Its window is looked up where its uses could fill it: other settings may have counted for a shorter one.
        """
        if self._first_ready_at() > self.now:
            return None  # found out at once, where the search below would go through a thousand keys that rest
        for digest, ready_at, rests_until, refused, used in self.db.execute(IN_TURN, (self.now,)):
            if digest in self.key_set.digests:
                window_until = self._window_until(digest, used)
                return digest, ready_at, _State(window_until, rests_until, refused, self._flights_until(digest), used)
        return None

    def use(self, digest: str, lease: str, state: "_State", *, was_ready_at: float) -> None:
        used = state.used + 1 - self._prune(digest, state.used)
        self.db.execute("INSERT INTO uses VALUES (?, ?, ?)", (digest, self.now, lease))
        if self.key_set.max_in_flight:
            self.db.execute("DELETE FROM flights WHERE digest = ? AND ends_at <= ?", (digest, self.now))
            self.db.execute("INSERT INTO flights VALUES (?, ?, ?)", (digest, self.now + self.key_set.flight_s, lease))
        window_until, flights_until = self._window_until(digest, used), self._flights_until(digest)
        ready_at = max(window_until, state.rests_until, flights_until)
        # The indexes of what is not set are not written, and most uses fill no window.
        moved, values = (", ready_at = ?", (ready_at,)) if ready_at != was_ready_at else ("", ())
        turn = "turn = (SELECT turn + 1 FROM clock)"
        self.db.execute(f"UPDATE keys SET {turn}{moved} WHERE digest = ?", (*values, digest))  # noqa: S608 - ours

    def _prune(self, digest: str, used: int) -> int:
        """Forget uses that no window holds any more, now and then and when they could fill one; returns how many."""
        if used < self.key_set.limit and used % PRUNE_ROWS:
            return 0
        ended = (digest, self.now - self.key_set.window_s)
        return self.db.execute("DELETE FROM uses WHERE digest = ? AND at <= ?", ended).rowcount

    def forget(self, table: Literal["uses", "flights"], digest: str, lease: str) -> None:
        self.db.execute(f"DELETE FROM {table} WHERE digest = ? AND lease = ?", (digest, lease))  # noqa: S608 - ours

    def refresh(self, digest: str) -> None:
        """Work out anew when the key may be used next."""
        self.note(digest, self.state(digest))

    def state(self, digest: str) -> "_State":
        """What keeps the key from being used, and until when."""
        rest = self._rest_of(digest)
        rests_until, refused = (rest[0], rest[1] == Kind.REFUSED) if rest is not None else (0.0, False)
        (used,) = self.db.execute("SELECT used FROM keys WHERE digest = ?", (digest,)).fetchone() or (0,)
        return _State(self._window_until(digest, used), rests_until, refused, self._flights_until(digest), used)

    def note(self, digest: str, state: "_State") -> None:
        self.db.execute(f"UPDATE keys SET {NOTE}", (*state.columns, digest))  # noqa: S608 - ours

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

    def end_rest(self, subject: str, reason: str | None) -> None:
        self.db.execute("DELETE FROM cooldowns WHERE subject = ?1 AND reason = ifnull(?2, reason)", (subject, reason))
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
        first_ready_at = 0.0 if self._is_new() else self._first_ready_at()
        return max(0.0, max(first_ready_at, model_ready_at) - self.now)

    def status(self, digest: str) -> StoredKeyStatus:
        since = self.now - self.key_set.window_s
        (used,) = self.db.execute("SELECT count(*) FROM uses WHERE digest = ? AND at > ?", (digest, since)).fetchone()
        row = self._rest_of(digest)
        rest = None
        if row is not None and row[0] > self.now:
            rest = Rest(row[0] - self.now, Kind(row[1]), Source(row[2]), row[3])
        rests_until = row[0] if row is not None else 0.0
        ready_at = max(self._window_until(digest, used), rests_until, self._flights_until(digest))
        return StoredKeyStatus(digest, used, max(0.0, ready_at - self.now), rest, self._in_flight(digest))

    def _window_until(self, digest: str, used: int) -> float:
        """When the window of a key with so many uses has a place again; in the past when it has one."""
        if used < self.key_set.limit:
            return 0.0
        row = self.db.execute(
            "SELECT at FROM uses WHERE digest = ? ORDER BY at DESC LIMIT 1 OFFSET ?", (digest, self.key_set.limit - 1)
        ).fetchone()
        return row[0] + self.key_set.window_s if row is not None else 0.0

    def _flights_until(self, digest: str) -> float:
        """When one more call may be in flight, if no lease is released before; in the past when one may now."""
        if not self.key_set.max_in_flight:
            return 0.0
        row = self.db.execute(
            "SELECT ends_at FROM flights WHERE digest = ? ORDER BY ends_at DESC LIMIT 1 OFFSET ?",
            (digest, self.key_set.max_in_flight - 1),
        ).fetchone()
        return row[0] if row is not None else 0.0

    def _in_flight(self, digest: str) -> int:
        if not self.key_set.max_in_flight:
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
        for digest, ready_at in self.db.execute("SELECT digest, ready_at FROM keys ORDER BY ready_at"):
            if digest in self.key_set.digests:
                return float(ready_at)
        return 0.0

    def _is_new(self) -> bool:
        """Nothing was ever asked for this key_set."""
        return self.db.execute("SELECT 1 FROM key_sets WHERE key_set = ?", (self.key_set.id,)).fetchone() is None

    def _all_refused(self) -> bool:
        rows = self.db.execute(
            "SELECT digest FROM keys WHERE refused = 0"
            " UNION ALL SELECT digest FROM keys WHERE refused = 1 AND rests_until <= ?",
            (self.now,),
        )
        return self._first_own(rows) is None

    def _first_own(self, rows: sqlite3.Cursor) -> str | None:
        """The file may know keys of other sets: of an older configuration, or of another program's."""
        return next((digest for (digest,) in rows if digest in self.key_set.digests), None)

    def _forget(self) -> None:
        """Remove some of what nobody has used for a week."""
        before = self.now - FORGET_AFTER_S
        gone = self.db.execute("SELECT digest FROM keys WHERE seen_at < ? LIMIT ?", (before, PRUNE_ROWS)).fetchall()
        for table in ("uses", "flights", "keys"):
            self.db.executemany(f"DELETE FROM {table} WHERE digest = ?", gone)  # noqa: S608 - names of ours
        self.db.execute("DELETE FROM key_sets WHERE seen_at < ?", (before,))
