"""The place of one worker process: it is kept, and who dies in it has a successor.

    Dramatiq's master ── keeper ── worker process      killed: its keeper starts another one
                      └─ keeper ── worker process      hears nothing of it

The keeper is what the master has started. It forks before anything is opened, and then does nothing but wait for
signals: so it has no lock, no connection and no thread that a fork could tear apart, and its next fork is as clean as
the first one.
"""

import gc
import mmap
import os
import signal
import time
from contextlib import suppress

from middleware.siblings import Siblings

#: How often a keeper looks whether its master is there, in seconds; nothing tells it.
LOOK_EVERY_S = 5.0

#: Who lives shorter has died in a row, and each successor waits longer, up to this; in seconds.
SHORT_LIFE_S, LONGEST_PAUSE_S = 60.0, 5.0

#: The end of a process by a signal, as a shell says it.
_KILLED = 128

#: A worker process is up, and its keeper has looked.
_AND_SEEN = 2

_STOPS = frozenset({signal.SIGTERM, signal.SIGHUP})


class Place:
    """Held by a keeper for one worker process at a time."""

    def __init__(self) -> None:
        #: How the process before this one has ended; None for the first.
        self.predecessor: str | None = None
        self.keeper = self.master = 0
        self._is_up = mmap.mmap(-1, 1)  # both processes see it
        self._asked_to_stop = False
        self._may_ignore = True
        self._pause_s = 0.0

    def enter(self) -> None:
        """Return in a worker process, and in each of its successors. The caller's own process stays here and keeps.

        It raises SystemExit with the code of its worker process when that was asked to stop, or has ended before it was
        up: then another one would not come up either, and the master has to know.
        """
        self.keeper, self.master = os.getpid(), os.getppid()
        siblings = Siblings(self.master)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPS, signal.SIGCHLD})
        gc.collect()
        gc.freeze()  # a collection writes to all that it looks at, and each page written to is shared no more
        while True:
            self._is_up[0] = 0
            began = time.monotonic()
            worker = os.fork()
            if worker == 0:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                return
            code = self._wait(worker, siblings)
            if self._asked_to_stop or not self._is_up[0]:
                raise SystemExit(code)
            self.predecessor = _fate(code)
            self._rest(lived_s=time.monotonic() - began)

    def is_up(self) -> None:
        """Called by a worker process that has started: from now on it has a successor when it dies."""
        self._is_up[0] = 1
        with suppress(ProcessLookupError):
            os.kill(self.keeper, signal.SIGCHLD)  # and its keeper looks who the siblings are

    @property
    def is_seen(self) -> bool:
        """Whether the keeper knows that its worker process is up, and who the siblings are since then."""
        return self._is_up[0] == _AND_SEEN

    def _wait(self, worker: int, siblings: Siblings) -> int:
        """Hand on the first signal to stop; the exit code of the worker process when it has ended."""
        while True:
            if self._is_up[0]:
                siblings.look()
                self._is_up[0] = _AND_SEEN
            heard = signal.sigtimedwait({*_STOPS, signal.SIGCHLD}, LOOK_EVERY_S)
            signum = heard.si_signo if heard is not None else signal.SIGCHLD
            if os.getppid() != self.master:
                signum = signal.SIGTERM
            if signum in _STOPS and not self._asked_to_stop and not self._is_for_a_sibling(signum, siblings):
                self._asked_to_stop = True
                os.kill(worker, signum)
            ended = os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG)
            if ended is not None:
                return ended.si_status if ended.si_code == os.CLD_EXITED else _KILLED + ended.si_status

    def _is_for_a_sibling(self, signum: int, siblings: Siblings) -> bool:
        """Whether it comes because another keeper has ended by itself: then the master stops the others, once."""
        if signum != signal.SIGTERM or not self._may_ignore or not siblings.lost():
            return False
        self._may_ignore = False
        return True

    def _rest(self, *, lived_s: float) -> None:
        """Wait before there is a successor, the longer the more have died in a row; SystemExit when asked to stop."""
        pause_s = self._pause_s if lived_s < SHORT_LIFE_S else 0.0
        self._pause_s = min(2 * pause_s or 1.0, LONGEST_PAUSE_S)
        if signal.sigtimedwait(_STOPS, pause_s) is not None:
            raise SystemExit(0)


def _fate(code: int) -> str:
    return f"was killed by signal {code - _KILLED}" if code > _KILLED else f"ended with code {code}"
