"""Shows from its start on that a process lives and works, to whoever looks from outside: `gemini health`."""

import os
import time

from dramatiq import Broker, Middleware, Worker

from gateway import heartbeat
from middleware.process import Process

#: How long a start may take, in seconds: it waits a minute for RabbitMQ, and as long for its store.
STARTS_WITHIN_S = 180.0


class Heartbeat(Middleware):
    """A process that starts, works, drains, or waits for RabbitMQ or the store is well; another one would do no better.

    What only a new process mends is trouble: it has not started in time, or settles nothing. One that writes no more is
    taken for hung.
    """

    def __init__(self, life: Process) -> None:
        self.life = life
        self._starts_at: float | None = None
        self._heartbeat: heartbeat.Heartbeat | None = None

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._starts_at = time.monotonic()
        self._heartbeat = heartbeat.Heartbeat(heartbeat.folder_of(os.environ), self.trouble)
        self._heartbeat.start()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._starts_at = None

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        if self._heartbeat is not None:
            self._heartbeat.stop()

    def trouble(self) -> str | None:
        """Why this process should be started again; None when it should not."""
        if self._starts_at is not None and time.monotonic() - self._starts_at > STARTS_WITHIN_S:
            return f"it has not started within {STARTS_WITHIN_S:.0f} s"
        return "it has deliveries and settles none" if self.life.stands_still else None
