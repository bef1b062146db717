"""Reports of the processes of one machine: tables in the SQLite file that they share."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from gateway.stores.state_file import StateFile
from gateway.usage.store import KNOWN_S, SPANS, WAITS_KEPT, Batch, Cell, Process, Seen, Span, Waiting

BEAT = """
INSERT INTO processes VALUES (?1, 0, ?2, ?3)
ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at, facts = excluded.facts RETURNING number
"""

ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (span, about, since, name, fact) DO UPDATE SET value = value + excluded.value
"""

WAIT = "REPLACE INTO waits SELECT ?1, ?2, ?3 WHERE (SELECT count(*) FROM waits) < ?4"


class SqliteUsageStore:
    """Keeps the contract of `UsageStore` for the processes of one machine, across restarts."""

    def __init__(self, file: StateFile, *, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock

    def report(self, process: Process, batch: Batch) -> None:
        now = self._clock()
        with self._file.transaction() as db:
            (number,) = db.execute(BEAT, (process.id, now, json.dumps(asdict(process)))).fetchone()
            if batch.number > number:
                db.execute("UPDATE processes SET number = ? WHERE id = ?", (batch.number, process.id))
                db.executemany(ADD, _rows(batch, now))
                db.executemany("DELETE FROM waits WHERE id = ?", [(ended,) for ended in batch.ended])
                waits = [(wait.id, now + wait.due_in_s, json.dumps(asdict(wait)), WAITS_KEPT) for wait in batch.waits]
                db.executemany(WAIT, waits)
            db.execute("DELETE FROM waits WHERE due_at <= ?", (now,))
            db.execute("DELETE FROM processes WHERE beat_at <= ?", (now - KNOWN_S,))
            for span in SPANS:
                for about in span.abouts:
                    sweep = "DELETE FROM usage WHERE span = ? AND about = ? AND since <= ?"
                    db.execute(sweep, (span.name, about, now - span.kept_s))

    def leave(self, process: Process) -> None:
        with self._file.transaction() as db:
            db.execute("DELETE FROM processes WHERE id = ?", (process.id,))

    def processes(self) -> list[Seen]:
        rows = self._file.run("SELECT facts, beat_at FROM processes ORDER BY beat_at DESC, id", ())
        now = self._clock()
        return [Seen(Process(**json.loads(facts)), max(0.0, now - beat_at)) for facts, beat_at in rows]

    def cells(self, span: Span, about: str, last_s: float) -> list[Cell]:
        found = """
        SELECT since, name, fact, value FROM usage WHERE span = ? AND about = ? AND since > ? ORDER BY since, name, fact
        """
        after = self._clock() - min(last_s, span.kept_s) - span.length_s
        return [Cell(*row) for row in self._file.run(found, (span.name, about, after))]

    def waits(self) -> list[Waiting]:
        now = self._clock()
        rows = self._file.run("SELECT facts, due_at FROM waits WHERE due_at > ? ORDER BY due_at, id", (now,))
        return [Waiting(**json.loads(facts) | {"due_in_s": due_at - now}) for facts, due_at in rows]


def _rows(batch: Batch, now: float) -> Iterator[tuple[Any, ...]]:
    for span in SPANS:
        since = int(now) // span.length_s * span.length_s
        for count, value in batch.counts.items():
            if count.about in span.abouts:
                yield span.name, count.about, since, count.name, count.fact, value
