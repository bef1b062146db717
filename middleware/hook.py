"""A hook is one generator around a delivery. One that fails before the actor keeps the actor from running.

    class KeySelection(Hook[JobAttempt]):
        kind = JobAttempt

        def around(self, attempt):
            attempt.lease = self.acquire(attempt.job)   # before the actor, and before the hooks further down
            error = yield                               # what has ended the attempt; None after a success
            self.release(attempt)                       # after the actor, and after the hooks further down

Dramatiq swallows what a before-hook raises, unless it is a `MiddlewareError`, and runs the actor without the hook:
without a key's turn, or without an entry in the ledger. Here it becomes `HookFailed`, which is one.
"""

import logging
from collections.abc import Generator
from typing import ClassVar, Generic, TypeVar, cast

from dramatiq import Broker, Middleware
from dramatiq.broker import MessageProxy
from dramatiq.middleware import MiddlewareError

from gateway.reporting import sentry
from middleware.attempt import Attempt, attempt_of
from middleware.errors import HookFailed

A = TypeVar("A", bound=Attempt)

#: What a hook is while a delivery runs: it is sent the exception that has ended the attempt, or None.
Around = Generator[None, BaseException | None, None]

logger = logging.getLogger(__name__)


class Hook(Middleware, Generic[A]):
    """Runs `around` each attempt of its `kind`: to its one `yield` before the actor, and from there after it.

    The second half runs where the first has run to its end, whatever has happened further down.
    """

    kind: ClassVar[type[Attempt]] = Attempt

    def around(self, attempt: A) -> Around:
        """The hook; yields once."""
        raise NotImplementedError

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        attempt = attempt_of(message)
        if not isinstance(attempt, self.kind):
            return
        around = self.around(cast("A", attempt))
        try:
            next(around)
        except MiddlewareError:
            raise
        except Exception as error:
            sentry.capture_fault(error, where=type(self).__name__)
            raise HookFailed(f"{type(self).__name__} has failed before the actor") from error
        attempt.hooks[self] = around

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        around: Around | None = attempt_of(message).hooks.pop(self, None)
        if around is None:
            return
        try:
            around.send(exception)
        except StopIteration:
            return
        raise AssertionError(f"{type(self).__name__} yields more than once")


class Verdict(Middleware, Generic[A]):
    """Decides after each attempt of its `kind`, also after one that a hook further up has kept from running."""

    kind: ClassVar[type[Attempt]] = Attempt

    def after(self, broker: Broker, attempt: A, error: BaseException | None) -> None:
        """What is to be done when `error`, or None, has ended the attempt."""
        raise NotImplementedError

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        attempt = attempt_of(message)
        # Dramatiq ends a delivery twice when a hook ends it with something that is no Exception.
        if isinstance(attempt, self.kind) and self not in attempt.verdicts:
            attempt.verdicts.add(self)
            self.after(broker, cast("A", attempt), exception)
