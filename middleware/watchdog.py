"""Ends a worker process that has lost a thread: half a worker looks alive and lets requests wait."""

import logging
import os
import signal
import threading

from dramatiq import Broker, Middleware, Worker

from gateway.runtime import Runtime

#: How often the threads are looked at, in seconds.
LOOK_EVERY_S = 5.0

#: Exit code of a worker process that has lost a thread, from sysexits.h: EX_SOFTWARE.
EXIT_THREAD_LOST = 70

logger = logging.getLogger(__name__)


class Watchdog(Middleware):
    """When a consumer or worker thread has ended by itself, the process drains, and ends with a code that is not 0.

    The platform starts it again; Dramatiq's master stops the other processes of the worker with it.
    """

    def __init__(self, runtime: Runtime, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self.runtime = runtime
        self.look_every_s = look_every_s
        self.lost: str | None = None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        threading.Thread(target=self._watch, args=(worker,), name="watchdog", daemon=True).start()

    def _watch(self, worker: Worker) -> None:
        while not self.runtime.stopping.wait(self.look_every_s):
            self.lost = _lost_thread(worker)
            if self.lost is not None:
                logger.critical("%s has ended by itself: the process drains and ends", self.lost)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self.lost is not None:
            raise SystemExit(EXIT_THREAD_LOST)


def _lost_thread(worker: Worker) -> str | None:
    threads = [*worker.workers, *worker.consumers.values()]
    return next((thread.name for thread in threads if not thread.is_alive()), None)
