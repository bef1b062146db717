"""Opens the resources of a worker process before its threads start, and closes them after they have ended."""

import gc
import logging
import multiprocessing
import os
from contextlib import suppress
from typing import TextIO

from dramatiq import Broker, Middleware, Worker

from gateway import exits
from gateway.errors import GatewayError
from gateway.rabbitmq import vhost_policies
from gateway.reporting import logs, otel, sentry
from gateway.resources import Resources
from gateway.settings import SettingsError, load_settings
from gateway.settings.remarks import remarks

logger = logging.getLogger(__name__)


class Boot(Middleware):
    """A worker starts with everything it needs, or its process ends with one line that says what is missing."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        # Calls are long: a message that is fetched but not started waits here while another worker is idle.
        worker.queue_prefetch = worker.worker_threads
        try:
            settings = load_settings()
            logs.configure(settings, stream=_stderr())
            sentry.configure(settings)
            otel.configure()
            if _is_first():
                for remark in remarks(settings):
                    logger.warning("%s", remark)
            self.resources.open_messaging(settings, name="worker")
            self.resources.open_provider()
            self.resources.follow_keys(load_settings)
            vhost_policies.look_in_background(settings, self.resources.topology().ours)
        except SettingsError as error:
            self._give_up(error, exits.SETTINGS)
        except GatewayError as error:
            self._give_up(error, 0 if self.resources.stopping.is_set() else exits.UNAVAILABLE)
        except Exception as error:
            logger.exception("A fault of the worker at its start; please report it")
            self._give_up(error, exits.FAULT)

    def _give_up(self, error: Exception, code: int) -> None:
        # SystemExit, because Dramatiq swallows any Exception of this hook and would start consuming.
        logger.log(logging.CRITICAL if code else logging.INFO, "%s", error)
        with suppress(Exception):  # of what was half opened
            self.resources.close(timeout_s=1.0)
        raise SystemExit(code)

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        # What lives until the end is looked at by no collection any more: a full one would stop all calls for long.
        gc.collect()
        gc.freeze()
        if _is_first() and self.resources.survey.is_open:
            self.resources.survey().start()
        logger.info("OpenRouter Worker setup complete (%d threads)", worker.worker_threads)

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self.resources.close(timeout_s=5.0)
        sentry.close(timeout_s=2.0)
        otel.close(timeout_s=2.0)


def _is_first() -> bool:
    """Whether this process speaks for all of its worker, which have the same settings.

    The launcher's processes are called `Process-1`, `SpawnProcess-2` and so on.
    """
    return multiprocessing.current_process().name.rpartition("-")[2] in {"1", "MainProcess"}


def _stderr() -> TextIO:
    """The process's own.

    Dramatiq has put a pipe to its master in the place of `sys.stderr`. There a line costs more than it did to make: it
    is pickled, sent, received, and written by another process.
    """
    return os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace")
