"""Every log line of a delivery carries its request id."""

import logging

from gateway.reporting.logs import facts, request_id_var
from middleware.attempt import Attempt, Outcome
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
            _log_outcome(attempt)
        request_id_var.set(None)


def _log_outcome(attempt: Attempt) -> None:
    fields = facts("settled", outcome=attempt.outcome, elapsed_ms=attempt.elapsed_ms)
    if attempt.outcome is Outcome.ANSWERED:
        name = attempt.request_id or "without an id"
        logger.info("Published response for request %s after %d ms", name, attempt.elapsed_ms, extra=fields)
    else:
        logger.info("Settled: %s after %d ms", attempt.outcome, attempt.elapsed_ms, extra=fields)
