"""Groups of processes, known by their leader, whoever started it."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from dev.waiting import TooLate, wait_until


def members(leader: int) -> list[int]:
    """The processes of a group that have not ended; none on a system without /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended in between
            state, _parent, group, *_ = _fields(status)
            if int(group) == leader and state != "Z":
                found.append(int(status.parent.name))
    return found


def children(pid: int) -> list[int]:
    """The processes that this one has started and that are there, in the order of their numbers."""
    with suppress(OSError):
        return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return []


def workers(master: int) -> list[int]:
    """The processes that do the work: each is the child of a keeper, which is a child of Dramatiq's master."""
    return [worker for keeper in children(master) for worker in children(keeper)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 when there is none."""
    with suppress(OSError):
        fields = _fields(Path(f"/proc/{pid}/stat"))
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def birth(pid: int) -> str:
    """When the process started, in whatever form the system says it; empty when there is none."""
    try:
        return _fields(Path(f"/proc/{pid}/stat"))[19]  # in clock ticks since boot
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def alive(leader: int, born: str) -> bool:
    """Whether this very process runs still: the number alone may be another's by now."""
    _reap(leader)
    return birth(leader) == born


def end(leader: int, born: str, signum: int, timeout_s: float) -> None:
    """Signal the group, and kill what is left of it after `timeout_s` seconds. Idempotent."""
    if not alive(leader, born):
        return
    for number, patience_s in ((signum, timeout_s), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError, TooLate):
            os.killpg(leader, number)
            wait_until(lambda: not _exists(leader), timeout_s=patience_s)


def _exists(leader: int) -> bool:
    _reap(leader)
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    # Who has ended and was orphaned may stay in the process table for seconds.
    return bool(members(leader)) or not Path("/proc/self/stat").exists()


def _reap(pid: int) -> None:
    """Take note of a child's end, so that it does not stay in the process table; not ours to do for other processes."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _fields(status: Path) -> list[str]:
    """What follows the name, which stands in parentheses and may hold anything."""
    return status.read_text().rpartition(")")[2].split()
