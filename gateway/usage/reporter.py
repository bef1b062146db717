"""Reports every few seconds what a process has done, and with it that the process lives."""

import logging
import threading
from collections.abc import Callable

from gateway.errors import StoreUnavailable
from gateway.usage.meter import Meter
from gateway.usage.store import Batch, Process, UsageStore

#: How often, in seconds.
REPORT_EVERY_S = 5.0

#: Between two batches of a report, in seconds: what else is to be done in this process is done then.
PAUSE_S = 0.001

logger = logging.getLogger(__name__)


class Reporter:
    """A thread that carries what the meter has counted into the store; no request waits for it.

    While the store is away counts add up in memory. What fails in any other way is dropped. A process that is killed
    takes with it what it has counted since its last report.
    """

    def __init__(
        self,
        store: UsageStore,
        meter: Meter,
        describe: Callable[[], Process],
        *,
        every_s: float = REPORT_EVERY_S,
    ) -> None:
        self._store = store
        self._meter = meter
        self._describe = describe
        self._every_s = every_s
        self._number = 0
        self._batch: Batch | None = None  # sent, and not known to be stored
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Report for the last time; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def report(self) -> None:
        """Say that the process lives, and all that it has done. Raises StoreUnavailable."""
        more = True
        while more:
            more = self._batch is not None
            if self._batch is None:
                self._batch, more = self._next()
            self._send(self._describe(), self._batch)
            self._batch = None
            if more:
                self._stopping.wait(PAUSE_S)

    def _send(self, process: Process, batch: Batch) -> None:
        try:
            self._store.report(process, batch)
        except StoreUnavailable:
            raise
        except Exception:  # it would fail again, and with it every report after it
            logger.exception("A report that cannot be stored is dropped, with %d counts", len(batch.counts))

    def _next(self) -> tuple[Batch, bool]:
        counts, waits, ended, more = self._meter.take()
        if not (counts or waits or ended):
            return Batch(), False
        self._number += 1
        return Batch(self._number, counts, waits, ended), more

    def _run(self) -> None:
        self._try(self.report)
        while not self._stopping.wait(self._every_s):
            self._try(self.report)
        self._try(self.report)
        self._try(lambda: self._store.leave(self._describe()))

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except StoreUnavailable as error:
            logger.debug("Not reported: %s", error)  # whoever needs the store for a request says so
        except Exception:
            logger.exception("A fault of the reports; the worker goes on")
