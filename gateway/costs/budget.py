"""What may be spent in a day, over all processes that share a store."""

import logging
import threading
import time
from collections.abc import Callable

from gateway.costs.call import NANO
from gateway.costs.store import CostStore, Today
from gateway.reporting import sentry

#: From which share of the budget an operator is told; each is told once a day by one of the processes.
SHARES = (1.0, 0.8)

logger = logging.getLogger(__name__)


class Budget:
    """Says whether the day's budget is spent, without asking the store: that was asked a moment ago. Thread-safe.

    What this process has spent since then counts too. So more is spent than the budget at most by what other processes
    spend between two looks, and by calls that run already. Without a limit it is never spent, and nothing is asked.
    """

    def __init__(
        self, store: CostStore, limit_usd: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._limit_nano = None if limit_usd is None else round(limit_usd * NANO)
        self._clock = clock
        self._lock = threading.Lock()
        self._spent = self._own = 0
        self._ends_at = 0.0
        self._told: set[tuple[float, int]] = set()

    @property
    def is_set(self) -> bool:
        return self._limit_nano is not None

    @property
    def closed_for_s(self) -> float:
        """Seconds until calls are made again, 0.0 while there is something left to spend."""
        if self._limit_nano is None or self._spent + self._own < self._limit_nano:
            return 0.0
        return max(0.0, self._ends_at - self._clock())

    def spend(self, cost_nano: int) -> None:
        """This process has spent so much, and it may not be in the store yet."""
        if self._limit_nano is not None:
            with self._lock:
                self._own += cost_nano

    def look(self) -> None:
        """Ask what the day has cost, and tell an operator where it is much. Raises StoreUnavailable."""
        if self._limit_nano is None:
            return
        with self._lock:
            self._own = 0  # first: what is spent meanwhile counts twice for a moment, and not never
        today = self._store.today()
        self._spent, self._ends_at = today.cost_nano, self._clock() + today.ends_in_s
        self._tell(today, self._limit_nano)

    def _tell(self, today: Today, limit_nano: int) -> None:
        share = next((share for share in SHARES if today.cost_nano >= share * limit_nano), None)
        day = round((time.time() + today.ends_in_s) / 3600)
        if share is None or (share, day) in self._told:
            return
        self._told.add((share, day))
        if not self._store.note(f"budget.{share:g}.{limit_nano}", "told", kept_s=max(1.0, today.ends_in_s)):
            return
        spent, limit = today.cost_nano / NANO, limit_nano / NANO
        text = f"${spent:.2f} of ${limit:.2f} (BUDGET_USD_PER_DAY) are spent; the day ends in {today.ends_in_s:.0f} s"
        if share == 1.0:
            text += ": until then batch requests wait, and others are answered with the error budget"
        logger.warning("%s", text)
        sentry.tell_operator("budget_spent" if share == 1.0 else "budget_nearly_spent", text)
