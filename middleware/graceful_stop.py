"""Stop once, and drain: no new deliveries, running calls end, the rest goes back to its queue."""

import logging
import signal
from collections.abc import Callable
from types import FrameType

from dramatiq import Broker, Middleware, Worker
from dramatiq.broker import MessageProxy
from dramatiq.common import iter_queue

from gateway.runtime import Runtime
from middleware.attempt import current
from middleware.errors import Stopping

_Handler = Callable[[int, FrameType | None], object]

logger = logging.getLogger(__name__)


class GracefulStop(Middleware):
    """The first SIGTERM stops the worker; later ones are ignored.

    Dramatiq kills a worker process at its second SIGTERM. Heroku, honcho and a shell in a container send the signal to
    every process of the group, and Dramatiq's master sends it on, so each worker gets two at once.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        for name in ("SIGTERM", "SIGHUP"):
            signum = getattr(signal, name)
            handler = signal.getsignal(signum)
            if callable(handler):
                signal.signal(signum, self._once(handler))

    def _once(self, handler: _Handler) -> _Handler:
        def first_only(signum: int, frame: FrameType | None) -> None:
            if not self.runtime.stopping.is_set():
                self.runtime.stopping.set()
                handler(signum, frame)

        return first_only

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
