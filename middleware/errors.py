"""Exceptions of the hooks. Each is a `MiddlewareError`: Dramatiq swallows any other one and runs the actor.

Each but HookFailed is a `Retry` as well: for Dramatiq such an exception is no accident, and needs no traceback.
"""

from dramatiq.errors import Retry
from dramatiq.middleware import MiddlewareError

from gateway.errors import BudgetSpent, KeysUnavailable, RequestRejected, Unwanted, UpstreamFailed


class NotRun(MiddlewareError, Retry):
    """The delivery ends here without an attempt; what becomes of it is already known, or it goes back."""


class HookFailed(MiddlewareError):
    """A fault of a hook before the actor: it does not run, and the request is tried again as after any fault of ours.

    No `Retry`: the log has its traceback.
    """


class Stopping(NotRun):
    """The process is stopping: the delivery goes back to its queue, for another worker."""


class Parked(NotRun):
    """The delivery waits for something else than a thread, and is looked at again: see `Attempt.park`."""


class AlreadyAnswered(NotRun):
    """The ledger has the answer: it is published again, nothing is called."""


class Rejected(RequestRejected, MiddlewareError, Retry):
    """The request can never succeed, which is known before a key is taken."""


class NotWanted(Unwanted, MiddlewareError, Retry):
    """The request has expired or was cancelled before a key was taken."""


class NoKey(KeysUnavailable, MiddlewareError, Retry):
    """No key may be used now; the retry schedule takes over."""


class NoBudget(BudgetSpent, MiddlewareError, Retry):
    """Nothing more is to be spent today; the retry schedule decides who waits."""


class Outage(UpstreamFailed, MiddlewareError, Retry):
    """Every key is refused, and of some that is a guess: it may be the provider's fault, and is being asked about."""
