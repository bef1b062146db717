"""Stop once, and drain: no new deliveries, running calls end, the rest goes back to its queue."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType

from dramatiq import Broker, Middleware, Worker
from dramatiq.broker import MessageProxy
from dramatiq.common import iter_queue

from gateway.runtime import Runtime
from middleware.attempt import current
from middleware.errors import Stopping

_Handler = Callable[[int, FrameType | None], object]

logger = logging.getLogger(__name__)


def _ignored(_signum: int, _frame: FrameType | None) -> None:
    """The number of the signal is on its way."""


class GracefulStop(Middleware):
    """The first SIGTERM stops the worker; later ones are ignored.

    Dramatiq kills a worker process at its second SIGTERM. Heroku, honcho and a shell in a container send the signal to
    every process of the group, and Dramatiq's master sends it on, so each worker gets two at once.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._signals: tuple[socket.socket, socket.socket] | None = None  # both ends stay open as long as the process

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

    def _wait(self, reader: socket.socket, stops: Mapping[int, _Handler]) -> None:
        """Read signals. The first one that stops the worker does; what comes after it is ignored."""
        while received := reader.recv(1):
            handler = stops.get(received[0])
            if handler is not None and not self.runtime.stopping.is_set():
                self.runtime.stopping.set()
                with suppress(SystemExit):  # of a second signal, as Dramatiq counts: the first came before this hook
                    handler(received[0], None)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self.runtime.stopping.set()
        waiting = [item.message for item in iter_queue(worker.work_queue)]
        for message in waiting:
            # No outcome, so this gives it back: another worker starts it while we finish our calls.
            worker.consumers[message.queue_name].post_process_message(message)
            worker.work_queue.task_done()
        logger.info("Draining: %d running, %d given back", worker.work_queue.unfinished_tasks, len(waiting))

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if self.runtime.stopping.is_set():
            raise Stopping("the worker is stopping")

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        current.set(None)
