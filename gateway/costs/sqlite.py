"""Costs of one machine: tables in the SQLite file that its processes share."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.costs.call import PaidCall
from gateway.costs.store import DAY_S, FACTS, MOST_ROWS, ROWS_KEPT_S, SPANS, Span, Sum, Today
from gateway.stores.state_file import StateFile

#: The sums are made by a trigger. No `OR IGNORE`: its policy would be that of the trigger's statements as well.
BOOK = "INSERT INTO paid_calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"

SUMS = f"""
SELECT since, key, model, tag, {", ".join(FACTS)} FROM paid_sums WHERE span = ? AND since > ?
ORDER BY since, key, model, tag
"""  # noqa: S608 - names of ours

TOO_MANY = "DELETE FROM paid_calls WHERE at <= (SELECT at FROM paid_calls ORDER BY at DESC LIMIT 1 OFFSET ?)"


def booking(calls: Sequence[PaidCall], now: float) -> list[tuple[Any, ...]]:
    """The parameters of BOOK for each call."""
    return [(call.id, now, *call.row) for call in calls]


class SqliteCostStore:
    """Keeps the contract of `CostStore` for the processes of one machine, across restarts."""

    def __init__(self, file: StateFile, *, clock: Callable[[], float] = time.time, most_rows: int = MOST_ROWS) -> None:
        self._file = file
        self._clock = clock
        self._most_rows = most_rows

    def book(self, calls: Sequence[PaidCall]) -> None:
        with self._file.transaction() as db:
            db.executemany(BOOK, booking(calls, self._clock()))

    def sums(self, span: Span, last_s: float) -> list[Sum]:
        after = self._clock() - min(last_s, span.kept_s) - span.length_s
        rows = self._file.run(SUMS, (span.name, after))
        return [
            Sum(since, key, model, tag, {fact: value for fact, value in zip(FACTS, values, strict=True) if value})
            for since, key, model, tag, *values in rows
        ]

    def rows(self, last_s: float) -> list[tuple[float, PaidCall]]:
        found = self._file.run("SELECT * FROM paid_calls WHERE at > ? ORDER BY at, id", (self._clock() - last_s,))
        return [(at, PaidCall.of_row(id_, tuple(row))) for id_, at, *row in found]

    def today(self) -> Today:
        now = self._clock()
        since = int(now) // DAY_S * DAY_S
        ((cost,),) = self._file.run(
            "SELECT COALESCE(sum(cost_nano), 0) FROM paid_sums WHERE span = 'day' AND since = ?", (since,)
        )
        return Today(cost, since + DAY_S - now)

    def note(self, name: str, text: str, *, kept_s: float) -> bool:
        now = self._clock()
        with self._file.transaction() as db:
            is_new = db.execute("SELECT 1 FROM notes WHERE name = ? AND ends_at > ?", (name, now)).fetchone() is None
            db.execute("REPLACE INTO notes VALUES (?, ?, ?)", (name, text, now + kept_s))
        return is_new

    def notes(self, names: Iterable[str]) -> dict[str, str]:
        wanted = set(names)
        rows = self._file.run("SELECT name, text FROM notes WHERE ends_at > ?", (self._clock(),))
        return {name: text for name, text in rows if name in wanted}

    def sweep(self) -> None:
        now = self._clock()
        with self._file.transaction() as db:
            db.execute("DELETE FROM paid_calls WHERE at <= ?", (now - ROWS_KEPT_S,))
            db.execute(TOO_MANY, (self._most_rows,))
            for span in SPANS:
                db.execute("DELETE FROM paid_sums WHERE span = ? AND since <= ?", (span.name, now - span.kept_s))
            db.execute("DELETE FROM notes WHERE ends_at <= ?", (now,))
