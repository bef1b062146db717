"""The key store of one machine: a SQLite file that its processes share.

    every step: if the set is new, or not registered for an hour: register its keys, and refresh each
    acquire(model):
        unless the model rests, or no key of the set has ready_at <= now:
            for each key of the set with ready_at <= now, least recently used first:
                if it may be used now: note the use, and the flight; it is the last in turn; refresh it; granted
                refresh it
        blocked until the lowest ready_at in the set; refused if the lowest refused_until in the set is to come
    cancel, release, cool, clear: change what is noted; refresh each key that it is about
    refresh(key):
        ready_at = the latest of the end of its rest or its account's, the moment when its window has a place,
                   and the moment when one more of its calls may be in flight
        refused_until = the end of that rest, if the provider has refused the key; else 0

`ready_at` is what makes a thousand keys cost what ten do: the lowest says how long no key need be looked at. It is
noted under the limits of whoever has refreshed the key last, so it is checked before the key is used; and while two
configurations with different limits are at work, the one with the higher ones may wait as long as the other.
"""

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from gateway.keys.store import (
    BATCH,
    LEARNED,
    Blocked,
    Granted,
    KeySet,
    Kind,
    Rest,
    Source,
    StoredKeyStatus,
    account_subject,
    is_batch,
    key_subject,
    model_subject,
)
from gateway.stores.state_file import StateFile

#: How long a set counts as registered, and how long after that its keys are known, in seconds.
REGISTERED_S = 3600.0
KNOWN_S = 7 * 86400.0

#: The most rows that one transaction removes of what has ended.
PRUNE_ROWS = 100

# Each statement costs more than what it does, so they are few and large.

#: A transaction begins with all that it needs to know.
OPENING = "SELECT latest, offset, (SELECT seen_at FROM key_sets WHERE id = ?) FROM clock"

#: A process that has just started does not know what another one has learned, and leaves it.
REGISTER = f"""
INSERT INTO keys (digest, account, turn, seen_at) VALUES (?1, ?2, 0, ?3)
ON CONFLICT (digest) DO UPDATE SET seen_at = excluded.seen_at,
    account = CASE WHEN ?2 IS NULL AND keys.account LIKE '{LEARNED}%' THEN keys.account ELSE ?2 END
"""  # noqa: S608 - a name of ours

#: The rests of a key and of its account: the last to end first, and of two that end together the refusal.
RESTS = """
FROM cooldowns WHERE subject IN ('key:' || keys.digest, 'account:' || keys.account) ORDER BY until DESC, kind DESC
"""

#: When the window of a key has a place, and one more of its calls may be in flight. `used` is the number of its uses: a
#: window that is far from full is not searched, however many it holds.
PLACE_AT = """max(
    CASE WHEN used < :limit THEN 0.0 ELSE (SELECT at + :window_s FROM uses WHERE digest = keys.digest
        ORDER BY at DESC LIMIT 1 OFFSET :limit - 1) END,
    ifnull((SELECT ends_at FROM flights WHERE :max_in_flight AND digest = keys.digest
        ORDER BY ends_at DESC LIMIT 1 OFFSET :max_in_flight - 1), 0.0)
)"""

#: When a key may be used: it has a place then, and its rests are over.
READY_AT = f"max({PLACE_AT}, ifnull((SELECT until {RESTS}), 0.0))"

REFRESH = f"""
UPDATE keys SET ready_at = {READY_AT},
    refused_until = ifnull((SELECT CASE kind WHEN 'refused' THEN until END {RESTS}), 0.0)
"""  # noqa: S608 - all of it ours

#: Whom a subject is about; a model's rest is no key's.
ABOUT = {"key": " WHERE digest = :name", "account": " WHERE account = :name"}

#: Rests are the same for all configurations, so it is only the place that is checked. The plus keeps SQLite from
#: sorting all that are ready: the index by turn has them in order.
IN_TURN = f"SELECT digest, {PLACE_AT}, used FROM keys WHERE +ready_at <= :now ORDER BY turn, id"  # noqa: S608 - all of it ours

#: When one more use of a key may be the batch lane's, and its turns.
BATCH_AT = f"""ifnull((SELECT at + :window_s FROM uses WHERE digest = keys.digest AND lease >= '{BATCH}'
    ORDER BY at DESC LIMIT 1 OFFSET :batch_limit - 1), 0.0)"""  # noqa: S608 - a letter of ours
IN_ORDER = " ORDER BY turn, id"
BATCH_IN_TURN = f"{IN_TURN.removesuffix(IN_ORDER)} AND {BATCH_AT} <= :now{IN_ORDER}"
BATCH_READY_AT = f"SELECT digest, max(ready_at, {BATCH_AT}) AS at FROM keys ORDER BY at"  # noqa: S608 - all of it ours

#: Other configurations may count for a longer window than this one, and need their uses.
PRUNE_USES = "DELETE FROM uses WHERE digest = ? AND at <= ? - (SELECT max(window_s) FROM key_sets)"

#: Turns are counted, not timed: two uses at the same moment have an order, and clocks have no say in it.
TAKE_TURN = "UPDATE keys SET turn = (SELECT turn + 1 FROM clock) WHERE digest = ?"

#: A longer rest that runs already stays as it is.
COOL = """
INSERT INTO cooldowns VALUES (?, ?, ?, ?, ?)
ON CONFLICT (subject) DO UPDATE SET
    until = excluded.until, kind = excluded.kind, source = excluded.source, reason = excluded.reason
WHERE excluded.until > cooldowns.until
"""

STATUS = f"""
SELECT (SELECT count(*) FROM uses WHERE digest = keys.digest AND at > :now - :window_s), {READY_AT},
    (SELECT count(*) FROM flights WHERE :max_in_flight AND digest = keys.digest AND ends_at > :now),
    until, kind, source, reason
FROM keys LEFT JOIN cooldowns ON subject = (SELECT subject {RESTS}) AND until > :now
WHERE digest = :name
"""  # noqa: S608 - all of it ours


class SqliteKeyStore:
    """Keeps the contract of `KeyStore` for the processes of one machine, across restarts."""

    def __init__(self, file: StateFile) -> None:
        self._file = file

    def acquire(self, key_set: KeySet, model: str, lease: str) -> Granted | Blocked:
        with self._step(key_set) as step:
            while step.ready_in_s(model) == 0 and (found := step.next_in_turn(batch=is_batch(lease))):
                digest, place_at, used = found
                if place_at <= step.now:
                    step.use(digest, lease, used)
                    return Granted(digest, step.now)
                step.refresh(key_subject(digest))
            return step.blocked(model, batch=is_batch(lease))

    def cancel(self, key_set: KeySet, digest: str, lease: str) -> None:
        with self._step(key_set) as step:
            step.db.execute("DELETE FROM uses WHERE digest = ? AND lease = ?", (digest, lease))
            step.end_flight(digest, lease)

    def release(self, key_set: KeySet, digest: str, lease: str) -> None:
        with self._step(key_set) as step:
            step.end_flight(digest, lease)

    def cool(self, key_set: KeySet, subject: str, rest: Rest) -> None:
        with self._step(key_set) as step:
            step.cool(subject, rest)

    def clear(self, key_set: KeySet, digest: str, reason: str | None = None) -> None:
        with self._step(key_set) as step:
            step.clear(digest, reason)

    def ready_in_s(self, key_set: KeySet, model: str | None, *, batch: bool = False) -> float:
        with self._look(key_set) as step:
            return step.ready_in_s(model, batch=batch)

    def status(self, key_set: KeySet) -> list[StoredKeyStatus]:
        with self._look(key_set) as step:
            return [step.status(key.digest) for key in key_set.keys]

    @contextmanager
    def _step(self, key_set: KeySet) -> Iterator["_Step"]:
        with self._file.transaction() as db:
            # The time is read under the write lock, so that records are in the order of their times.
            step = _begin(db, key_set)
            if not step.registered:
                step.register()
            yield step
            step.keep_time()

    @contextmanager
    def _look(self, key_set: KeySet) -> Iterator["_Step"]:
        with self._file.snapshot() as db:
            step = _begin(db, key_set)
            if step.registered and not step.set_back:
                yield step
                return
        with self._step(key_set) as step:
            yield step  # and has noted where time goes on from: it would stand still for somebody who only looks


def _begin(db: sqlite3.Connection, key_set: KeySet) -> "_Step":
    """A step at this moment.

    The store's time never goes back, whatever the clock does: after a clock was set back it goes on from where it was,
    so every window and rest keeps its length.
    """
    latest, offset, seen_at = db.execute(OPENING, (key_set.id,)).fetchone()
    clock = (key_set.clock or time.time)()
    set_back = clock + offset < latest
    if set_back:
        offset = latest - clock
    now = max(latest, clock + offset)
    return _Step(db, key_set, now, offset, set_back, registered=seen_at is not None and now - seen_at < REGISTERED_S)


@dataclass(frozen=True, slots=True)
class _Step:
    """One transaction, at one moment; `offset` is what the clock is behind, `set_back` that it was before this step."""

    db: sqlite3.Connection
    key_set: KeySet
    now: float
    offset: float
    set_back: bool
    registered: bool

    def keep_time(self) -> None:
        self.db.execute("UPDATE clock SET latest = ?, offset = ?, turn = turn + 1", (self.now, self.offset))

    def register(self) -> None:
        """Have a row for every key of the set."""
        self.db.execute("REPLACE INTO key_sets VALUES (?, ?, ?)", (self.key_set.id, self.key_set.window_s, self.now))
        for key in self.key_set.keys:
            self.db.execute(REGISTER, (key.digest, key.account, self.now))
            self.refresh(key_subject(key.digest))
        self._forget()

    def refresh(self, subject: str) -> None:
        """Work out anew when the keys that the subject is about may be used."""
        scope, _, name = subject.partition(":")
        if scope in ABOUT:
            self.db.execute(REFRESH + ABOUT[scope], self._facts(name))

    def next_in_turn(self, *, batch: bool) -> tuple[str, float, int] | None:
        """The least recently used key that is ready as far as its row says, when it has a place, and its uses."""
        rows = self.db.execute(BATCH_IN_TURN if batch else IN_TURN, self._facts())
        found: tuple[str, float, int] | None = self._first_own(rows)
        return found

    def use(self, digest: str, lease: str, used: int) -> None:
        may_be_full = used + 1 >= self.key_set.limit
        if may_be_full or used % PRUNE_ROWS == 0:
            self.db.execute(PRUNE_USES, (digest, self.now))
        self.db.execute("INSERT INTO uses VALUES (?, ?, ?)", (digest, self.now, lease))
        self.db.execute(TAKE_TURN, (digest,))
        if self.key_set.max_in_flight:
            self.db.execute("DELETE FROM flights WHERE digest = ? AND ends_at <= ?", (digest, self.now))
            self.db.execute("INSERT INTO flights VALUES (?, ?, ?)", (digest, self.now + self.key_set.flight_s, lease))
        if may_be_full or self.key_set.max_in_flight:
            self.refresh(key_subject(digest))  # else it is as ready as before, and an index is not written in vain

    def end_flight(self, digest: str, lease: str) -> None:
        self.db.execute("DELETE FROM flights WHERE digest = ? AND lease = ?", (digest, lease))
        self.refresh(key_subject(digest))

    def cool(self, subject: str, rest: Rest) -> None:
        self.db.execute(COOL, (subject, self.now + rest.seconds, rest.kind, rest.source, rest.reason))
        self.refresh(subject)
        self.db.execute(
            "DELETE FROM cooldowns WHERE subject IN (SELECT subject FROM cooldowns WHERE until <= ? LIMIT ?)",
            (self.now, PRUNE_ROWS),
        )

    def clear(self, digest: str, reason: str | None) -> None:
        (account,) = self.db.execute("SELECT account FROM keys WHERE digest = ?", (digest,)).fetchone() or (None,)
        for subject in [key_subject(digest)] + ([] if account is None else [account_subject(account)]):
            self.db.execute("DELETE FROM cooldowns WHERE subject = ? AND reason = ifnull(?, reason)", (subject, reason))
            self.refresh(subject)

    def blocked(self, model: str, *, batch: bool) -> Blocked:
        return Blocked(self.ready_in_s(model, batch=batch), refused=self._lowest("refused_until", math.inf) > self.now)

    def ready_in_s(self, model: str | None, *, batch: bool = False) -> float:
        rests_until = 0.0
        if model is not None:
            row = self.db.execute("SELECT until FROM cooldowns WHERE subject = ?", (model_subject(model),)).fetchone()
            rests_until = row[0] if row is not None else 0.0
        ready_at = self._batch_ready_at() if batch else self._lowest("ready_at", 0.0)
        return max(0.0, max(ready_at, rests_until) - self.now)

    def status(self, digest: str) -> StoredKeyStatus:
        used, ready_at, in_flight, until, kind, source, reason = self.db.execute(STATUS, self._facts(digest)).fetchone()
        rest = None if until is None else Rest(until - self.now, Kind(kind), Source(source), reason)
        return StoredKeyStatus(digest, used, max(0.0, ready_at - self.now), rest, in_flight)

    def _lowest(self, column: Literal["ready_at", "refused_until"], otherwise: float) -> float:
        rows = self.db.execute(f"SELECT digest, {column} FROM keys ORDER BY {column}")  # noqa: S608 - names of ours
        return (self._first_own(rows) or ("", otherwise))[1]

    def _batch_ready_at(self) -> float:
        at: float = (self._first_own(self.db.execute(BATCH_READY_AT, self._facts())) or ("", 0.0))[1]
        return at

    def _facts(self, name: str | None = None) -> dict[str, object]:
        """The parameters of the large statements."""
        own = self.key_set
        return {
            "now": self.now,
            "limit": own.limit,
            "window_s": own.window_s,
            "max_in_flight": own.max_in_flight,
            "batch_limit": own.batch_limit,
            "name": name,
        }

    def _first_own(self, rows: sqlite3.Cursor) -> Any:
        """The first row of a key of the set: the file may know others, of another configuration or program."""
        return next((row for row in rows if row[0] in self.key_set.digests), None)

    def _forget(self) -> None:
        """Remove some of what nobody has used for a week."""
        before = (self.now - KNOWN_S, PRUNE_ROWS)
        gone = self.db.execute("SELECT digest FROM keys WHERE seen_at < ? LIMIT ?", before).fetchall()
        for table in ("uses", "flights", "keys"):
            self.db.executemany(f"DELETE FROM {table} WHERE digest = ?", gone)  # noqa: S608 - names of ours
        self.db.execute("DELETE FROM key_sets WHERE seen_at <= ?", (self.now - REGISTERED_S,))
