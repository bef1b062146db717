"""Every log line of a delivery carries its request id."""

import logging

from gateway.reporting.logs import request_id_var
from middleware.attempt import Attempt
from middleware.hook import Around, Hook

logger = logging.getLogger(__name__)


class LogContext(Hook[Attempt]):
    """Sets the request id for the thread before all hooks further down log, and clears it after them."""

    def around(self, attempt: Attempt) -> Around:
        request_id_var.set(attempt.request_id)
        yield
        if attempt.parking is not None:
            logger.debug("Parked for %g s", attempt.parking.after_s)
        elif attempt.outcome is None:
            logger.warning("Not settled: the delivery goes back to its queue")
        else:
            logger.info("Settled: %s after %d ms", attempt.outcome, attempt.elapsed_ms)
        request_id_var.set(None)
