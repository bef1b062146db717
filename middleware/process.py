"""The life of a worker process: it stops once and drains, and it ends when it has lost a thread."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType

from dramatiq import Broker, Worker
from dramatiq.common import iter_queue

from gateway import exits
from gateway.reporting import sentry
from gateway.settings import Settings
from middleware.attempt import Attempt, current
from middleware.errors import Stopping
from middleware.hook import Around, Hook
from middleware.progress import Progress

#: How often the threads are looked at, in seconds.
LOOK_EVERY_S = 5.0

#: How much longer than a call a delivery may take without being settled, in seconds: its answer is stored, published
#: and, if the confirm does not come, published again.
STILL_MARGIN_S = 60.0

_Handler = Callable[[int, FrameType | None], object]

logger = logging.getLogger(__name__)


class Process(Hook[Attempt]):
    """The first SIGTERM stops the worker, later ones are ignored: no new deliveries, running calls end.

    Dramatiq kills a worker process at its second SIGTERM. Heroku, honcho and a shell in a container send the signal to
    every process of the group, and Dramatiq's master sends it on, so each worker gets two at once.

    When a consumer or worker thread has ended by itself, the process drains, and ends with a code that is not 0: half a
    process looks alive and lets requests wait. Its keeper starts another one (`middleware/keeper.py`). One that has
    deliveries and has settled none for longer than any call can take says so once, as long as that lasts.
    """

    def __init__(
        self,
        stopping: threading.Event,
        settings: Callable[[], Settings],
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.stopping = stopping
        self.settings = settings
        self.progress = Progress()
        self.stands_still = False
        self.look_every_s = look_every_s
        self.lost: str | None = None
        self._signals: tuple[socket.socket, socket.socket] | None = None  # both ends stay open as long as the process

    def around(self, attempt: Attempt) -> Around:
        if not attempt.looks:
            self.progress.begun()
            attempt.at_end.append(self.progress.settled)
        if self.stopping.is_set():
            raise Stopping("the worker is stopping")
        if attempt.is_gone():
            raise Stopping("its connection has ended before it was started: RabbitMQ delivers it again")
        current.set(attempt)
        yield
        current.set(None)

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        # Nothing is done in the handlers: they interrupt whoever runs, and on greenlets that may be the holder of any
        # lock, that of the log among them. Python writes the number of each signal to a socket, and a thread reads it.
        self._signals = reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)  # first: no signal falls in between
        stops = {}
        for name in ("SIGTERM", "SIGHUP"):
            signum = getattr(signal, name)
            handler = signal.getsignal(signum)
            if callable(handler):
                stops[int(signum)] = handler
                signal.signal(signum, _ignored)
        threading.Thread(target=self._wait, args=(reader, stops), name="signals", daemon=True).start()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        threading.Thread(target=self._watch, args=(worker,), name="watchdog", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self.stopping.set()
        waiting = [item.message for item in iter_queue(worker.work_queue)]
        for message in waiting:
            # No outcome, so this gives it back: another worker starts it while we finish our calls.
            worker.consumers[message.queue_name].post_process_message(message)
            worker.work_queue.task_done()
        logger.info("Draining: %d running, %d given back", worker.work_queue.unfinished_tasks, len(waiting))

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self.lost is not None:
            raise SystemExit(exits.FAULT)

    def _wait(self, reader: socket.socket, stops: Mapping[int, _Handler]) -> None:
        """Read signals. The first one that stops the worker does; what comes after it is ignored."""
        while received := reader.recv(1):
            handler = stops.get(received[0])
            if handler is not None and not self.stopping.is_set():
                self.stopping.set()
                with suppress(SystemExit):  # of a second signal, as Dramatiq counts: the first came before this hook
                    handler(received[0], None)

    def _watch(self, worker: Worker) -> None:
        while not self.stopping.wait(self.look_every_s):
            self.lost = _lost_thread(worker)
            self._say_whether_it_stands_still()
            if self.lost is not None:
                logger.critical("%s has ended by itself: the process drains and ends", self.lost)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def _say_whether_it_stands_still(self) -> None:
        limit_s = self.settings().request_timeout_seconds + STILL_MARGIN_S
        stood_still, self.stands_still = self.stands_still, self.progress.still_for_s() > limit_s
        if self.stands_still and not stood_still:
            text = f"{self.progress.unsettled} deliveries, and none was settled for more than {limit_s:.0f} s"
            logger.critical("%s: see the lines before, and restart the worker if they do not say why", text)
            sentry.tell_operator("stands_still", text)
        elif stood_still and not self.stands_still:
            logger.warning("Deliveries are settled again")


def _ignored(_signum: int, _frame: FrameType | None) -> None:
    """The number of the signal is on its way."""


def _lost_thread(worker: Worker) -> str | None:
    threads = [*worker.workers, *worker.consumers.values()]
    return next((thread.name for thread in threads if not thread.is_alive()), None)
