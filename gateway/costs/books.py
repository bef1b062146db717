"""What a process has to do about costs beside its requests: a thread of its own does it."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from gateway.costs.budget import Budget
from gateway.costs.call import PaidCall
from gateway.costs.store import DAY_S, CostStore
from gateway.errors import StoreUnavailable

#: How often what is late is booked and the budget is looked at, in seconds; and after how many looks what is over is
#: forgotten.
LOOK_EVERY_S, SWEEP_EVERY = 2.0, 30

#: How many calls wait in memory at most for a store that is away.
MOST_LATE = 10_000

#: How long the name of a key is known after it was set, in seconds.
NAMES_KEPT_S = 92 * DAY_S

logger = logging.getLogger(__name__)


class Books:
    """Books what could not be booked with an answer, keeps the budget up to date, and forgets what is over.

    A call that waits here is lost when the process is killed.
    """

    def __init__(self, store: CostStore, budget: Budget, *, every_s: float = LOOK_EVERY_S) -> None:
        self._store = store
        self.budget = budget
        self._every_s = every_s
        self._late: list[PaidCall] = []
        self._names: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="costs", daemon=True)

    def start(self) -> None:
        """Raises StoreUnavailable: without it nobody knows what is spent."""
        self.budget.look()
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Book what is late; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def later(self, calls: Sequence[PaidCall]) -> None:
        """Have these booked within seconds, or as soon as the store is there again."""
        with self._lock:
            room = MOST_LATE - len(self._late)
            self._late += calls[: max(0, room)]
        if len(calls) > room:
            logger.error("Not booked: the store is away, and %d paid calls wait for it already", MOST_LATE)

    def now(self, calls: Sequence[PaidCall]) -> None:
        """Have these booked when this returns, if the store is there; else later."""
        try:
            self._store.book(calls)
        except StoreUnavailable:
            self.later(calls)

    def name_keys(self, names: Mapping[str, str]) -> None:
        """Have it known what people call the keys of these digests, also when they are no longer set."""
        with self._lock:
            self._names.update({f"key.{digest}": name for digest, name in names.items()})

    def _run(self) -> None:
        looks: int = 0
        while not self._stopping.wait(self._every_s):
            for step in (self._book_late, self._note_names, self.budget.look):
                self._try(step)
            looks += 1
            if looks % SWEEP_EVERY == 1:
                self._try(self._store.sweep)
        self._try(self._book_late)

    def _book_late(self) -> None:
        with self._lock:
            late = list(self._late)
        if late:
            self._store.book(late)
            with self._lock:
                del self._late[: len(late)]

    def _note_names(self) -> None:
        with self._lock:
            names = dict(self._names)
        if names:
            known = self._store.notes(names)
            for name, text in names.items():
                if known.get(name) != text:
                    self._store.note(name, text, kept_s=NAMES_KEPT_S)
            with self._lock:
                for name in names:
                    self._names.pop(name, None)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            with suppress(StoreUnavailable):  # whoever needs the store for a request says so
                step()
        except Exception:
            logger.exception("A fault of the books; the worker goes on")
