"""Runs inside a worker process that is profiled: `dramatiq-gevent actors benchmarks.sampler`.

From SIGUSR1 on it notes for each millisecond of CPU time which functions run, and counts SQL statements; at the next
SIGUSR1 it writes what it has to the file PROFILE_TO. PROFILE_KIND: `stacks`, `calls` (counts function calls, no
samples), or `none`, which changes nothing.
"""

import cProfile
import json
import os
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

#: How often the functions are noted, in seconds of CPU time.
EVERY_S = 0.001

_connect = sqlite3.connect


class Sampler:
    """Waits for its signal; the first starts it, the second ends it."""

    def __init__(self, to: Path, kind: str) -> None:
        self._to = to
        self._kind = kind
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._statements: Counter[str] = Counter()
        self._profile = cProfile.Profile()
        self._calls: int | None = None
        self._wakeup = -1

    def install(self) -> None:
        if self._kind == "calls":
            self._profile.enable()  # now: a greenlet is profiled if it was when it began
            sqlite3.connect = self._open
        signal.signal(signal.SIGPROF, self._sample)
        signal.signal(signal.SIGUSR1, self._turn)

    def _turn(self, _signum: int, _frame: FrameType | None) -> None:
        if self._calls is None:
            self._calls = self._call_count()
            self._statements.clear()
            self._wakeup = signal.set_wakeup_fd(-1)  # the worker reads its signals there; these are none of its own
            signal.setitimer(signal.ITIMER_PROF, EVERY_S * (self._kind == "stacks"), EVERY_S)
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        stacks = [[count, *stack] for stack, count in self._stacks.most_common()]
        found = {"stacks": stacks, "statements": self._statements, "calls": self._call_count() - self._calls}
        self._to.with_suffix(".part").write_text(json.dumps(found))
        self._to.with_suffix(".part").rename(self._to)

    def _call_count(self) -> int:
        return sum(entry.callcount for entry in self._profile.getstats())

    def _sample(self, _signum: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        self._stacks[tuple(stack)] += 1

    def _open(self, *args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = _connect(*args, **kwargs)
        connection.set_trace_callback(lambda statement: self._statements.update([statement.split(None, 1)[0]]))
        return connection


if os.environ["PROFILE_KIND"] != "none":
    Sampler(Path(os.environ["PROFILE_TO"]), os.environ["PROFILE_KIND"]).install()
