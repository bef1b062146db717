"""No key is taken, and nothing paid, for an answer that nobody waits for any more."""

from gateway.errors import ErrorCode
from middleware.attempt import JobAttempt
from middleware.errors import NotWanted
from middleware.hook import Around, Hook


class Wanted(Hook[JobAttempt]):
    """A request that its sender has cancelled, that an operator has dropped, or whose deadline has passed, ends here.

    A call that runs does not.
    """

    kind = JobAttempt

    def around(self, attempt: JobAttempt) -> Around:
        if attempt.cancelled:
            raise NotWanted("Cancelled by its sender", code=ErrorCode.CANCELLED)
        if attempt.job.dropped:
            raise NotWanted("Dropped by an operator while it waited", code=ErrorCode.CANCELLED)
        if attempt.job.time_left_s <= 0:
            raise NotWanted("The deadline of the request has passed", code=ErrorCode.EXPIRED)
        yield
