"""How a command ends: by a signal, or because it cannot go on, and never without having cleaned up."""

import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from dev.waiting import TooLate

UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h, as a worker without RabbitMQ

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """It cannot go on; the text is for a person, `code` is for the shell."""

    def __init__(self, text: str, code: int = UNAVAILABLE) -> None:
        super().__init__(text)
        self.code = code


class Stopped(BaseException):
    """Somebody wants it to end; `code` is what a shell says of the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.code = 128 + signum


def run(name: str, command: Callable[[ExitStack], int]) -> int:
    """The exit code of `command`; what it puts on the stack is undone, whatever ends it. Raises Stopped."""
    for signum in SIGNALS:
        signal.signal(signum, _stop)
    try:
        with ExitStack() as cleanup:
            try:
                return command(cleanup)
            finally:
                _disturb_no_more()
    except Failed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.code
    except TooLate as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def _stop(signum: int, _frame: FrameType | None) -> None:
    _disturb_no_more()
    raise Stopped(signum)


def _disturb_no_more() -> None:
    """From here on a second Ctrl-C, pressed by somebody in a hurry, leaves nothing behind."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
