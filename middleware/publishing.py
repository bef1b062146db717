"""Who publishes a stored answer: of several deliveries of the same work in this process, one at a time."""

import threading

from gateway.ledger.store import Work
from middleware.attempt import JobAttempt


class Publishing:
    """Between `begin` and `end` the answer of a piece of work is one attempt's to publish. Thread-safe.

    A confirm can take as long as RabbitMQ likes. A redelivery that gave up waiting for it would send a second envelope,
    although the process that sends the first one is alive: so in one process nobody guesses.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._publishers: dict[Work, JobAttempt] = {}

    def begin(self, attempt: JobAttempt) -> bool:
        """Whether the answer is this attempt's to publish from now on; False while it is another's. Idempotent."""
        with self._lock:
            return self._publishers.setdefault(attempt.work, attempt) is attempt

    def end(self, attempt: JobAttempt) -> None:
        """The attempt has published its answer, or never will. Idempotent."""
        with self._lock:
            if self._publishers.get(attempt.work) is attempt:
                del self._publishers[attempt.work]
