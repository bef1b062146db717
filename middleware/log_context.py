"""Every log line of a delivery carries its request id."""

import logging

from dramatiq import Broker, Middleware
from dramatiq.broker import MessageProxy

from gateway.reporting.logs import request_id_var
from middleware.attempt import attempt_of, current

logger = logging.getLogger(__name__)


class LogContext(Middleware):
    """Sets the request id for the thread before all other hooks log, and clears it after them."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        attempt = attempt_of(message)
        current.set(attempt)
        work = attempt.job or attempt.reply
        request_id_var.set(work.request_id if work is not None else None)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        attempt = attempt_of(message)
        if attempt.outcome is None:
            logger.warning("Not settled: the delivery goes back to its queue")
        else:
            logger.info("Settled: %s after %d ms", attempt.outcome, attempt.elapsed_ms)
        request_id_var.set(None)
