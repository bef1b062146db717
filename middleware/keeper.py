"""A worker process that dies is replaced, and the other processes of the worker hear nothing of it."""

import logging
import os
import signal
import threading

from dramatiq import Broker, Middleware, Worker

from gateway import exits
from gateway.reporting import sentry
from middleware.place import Place
from middleware.siblings import Siblings

#: How often a worker process looks whether its keeper is there, in seconds.
LOOK_EVERY_S = 5.0

logger = logging.getLogger(__name__)


class Keeper(Middleware):
    """Between Dramatiq's master and each worker process stands a keeper: see `middleware/place.py`.

    The master starts no process anew: when one ends by itself, it stops the others and ends. So what it has started
    does not end; its child does, and has a successor. A keeper itself may be killed, too: its worker process drains,
    and the other keepers do not hand on the master's signal, so the others go on.

    Where the system has no `sigtimedwait` (macOS) nothing is kept, and it is as Dramatiq does it.
    """

    def __init__(self, stopping: threading.Event, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self.stopping = stopping
        self.look_every_s = look_every_s
        self.place: Place | None = None

    def after_process_boot(self, broker: Broker) -> None:
        if not hasattr(signal, "sigtimedwait"):
            return
        self.place = Place()
        try:
            self.place.enter()
        except Exception:  # Dramatiq would swallow it, and go on with a process that hears no signal
            logger.exception("A process of the worker cannot be kept")
            raise SystemExit(exits.FAULT) from None

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        if self.place is None:
            return
        self.place.is_up()
        if self.place.predecessor is not None:
            _tell(f"A process of the worker {self.place.predecessor}: this one has taken its place")
        threading.Thread(target=self._watch, args=(self.place,), name="keeper", daemon=True).start()

    def _watch(self, place: Place) -> None:
        siblings = Siblings(place.master)
        siblings.look()
        while not self.stopping.wait(self.look_every_s):
            if os.getppid() != place.keeper:
                logger.critical("The keeper of this process has ended: the process drains and ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if lost := siblings.lost():
                _tell(f"{len(lost)} of the worker's processes ended by itself: the others go on, restart the worker")


def _tell(text: str) -> None:
    logger.critical(text)
    sentry.tell_operator("process_died", text)
