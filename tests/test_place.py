"""Who dies in a place has a successor; each test starts a keeper, as its master, and looks at what comes of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dev.waiting import wait_until
from middleware import place as places
from middleware.place import Place
from middleware.siblings import Siblings

ROOT = Path(__file__).resolve().parents[1]

#: A worker process without work. It says who it is and who was before it, comes up or not, and is then there.
WORKER = """
import os, signal, sys, time
from middleware import place as places
places.LOOK_EVERY_S = 0.05
place = places.Place()
place.enter()
def stop(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
if "up" in sys.argv:
    place.is_up()
    while not place.is_seen:
        time.sleep(0.01)
print(os.getpid(), place.predecessor or "first", flush=True)
if "ends" in sys.argv:
    sys.exit(78)
while True:
    signal.pause()
"""


class Kept:
    """A keeper that was started, and the worker processes that it has started."""

    def __init__(self, keeper: "subprocess.Popen[str]") -> None:
        self.keeper = keeper

    def worker(self) -> tuple[int, str]:
        """The next one: its id, and what it says of the one before."""
        assert self.keeper.stdout is not None
        pid, _, predecessor = self.keeper.stdout.readline().strip().partition(" ")
        return int(pid), predecessor


@contextmanager
def keeper(*behaviour: str, command: tuple[str, ...] = (sys.executable, "-c", WORKER)) -> Iterator[Kept]:
    process = subprocess.Popen(
        [*command, *behaviour], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield Kept(process)
    finally:
        end_all_of(process)


def end_all_of(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def is_there(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_who_is_killed_has_a_successor():
    """F52: it knows what has happened; the keeper, which the master looks at, is still the same."""
    with keeper("up") as kept:
        first, predecessor = kept.worker()
        assert predecessor == "first"
        os.kill(first, signal.SIGKILL)
        second, predecessor = kept.worker()
        assert (second != first, predecessor) == (True, "was killed by signal 9")
        assert kept.keeper.poll() is None


def test_who_does_not_come_up_has_no_successor():
    """Bad settings, or no RabbitMQ: the exit code is for the platform."""
    with keeper("ends") as kept:
        assert kept.keeper.wait(10) == 78


def test_who_is_killed_before_he_is_up_has_no_successor():
    """It would be the same again; a shell says the code of a killed process so."""
    with keeper() as kept:
        os.kill(kept.worker()[0], signal.SIGKILL)
        assert kept.keeper.wait(10) == 128 + 9


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_handed_on_and_the_code_comes_back(signum: signal.Signals):
    """F50: to a successor as well; a drain takes its time, and the keeper waits for it."""
    with keeper("up") as kept:
        os.kill(kept.worker()[0], signal.SIGKILL)
        kept.worker()
        kept.keeper.send_signal(signum)
        assert kept.keeper.wait(10) == (7 if signum == signal.SIGTERM else 128 + signum)


def test_a_stop_of_the_group_is_one_stop():
    """F50: the keeper and its worker process get it, and the master sends it on; no successor is started."""
    with keeper("up") as kept:
        kept.worker()
        os.killpg(kept.keeper.pid, signal.SIGTERM)
        kept.keeper.send_signal(signal.SIGTERM)
        assert kept.keeper.wait(10) == 7


def test_the_signal_of_the_master_after_a_sibling_has_died_stops_nobody():
    """F68: once. The next one is the platform's."""
    with keeper("up") as one, keeper("up") as other:
        one.worker()
        survivor, _ = other.worker()
        end_all_of(one.keeper)
        other.keeper.send_signal(signal.SIGTERM)
        os.kill(survivor, signal.SIGKILL)  # only one who was not asked to stop has a successor
        assert other.worker()[1] == "was killed by signal 9"
        other.keeper.send_signal(signal.SIGTERM)
        assert other.keeper.wait(10) == 7


def test_of_a_master_that_was_killed_nothing_is_left():
    """It could stop nobody any more, and its worker processes would go on for ever."""
    shell = ("sh", "-c", f'"{sys.executable}" -c "$0" up & wait', WORKER)
    with keeper(command=shell) as kept:
        worker, _ = kept.worker()
        kept.keeper.kill()
        wait_until(lambda: not is_there(worker), what="the end of the worker process")


def test_who_dies_in_a_row_waits_for_a_successor(monkeypatch: pytest.MonkeyPatch):
    """At once after the first death, and after a long life; in between longer and longer, up to five seconds: P5."""
    waited: list[float] = []
    monkeypatch.setattr(places.signal, "sigtimedwait", lambda _signals, pause_s: waited.append(pause_s))
    place = Place()
    for lived_s in (1, 1, 1, 1, 100, 1):
        place._rest(lived_s=lived_s)
    assert waited == [0, 1, 2, 4, 0, 1]
    for _ in range(10):
        place._rest(lived_s=1)
    assert waited[-1] == 5


def test_a_stop_ends_the_wait_for_a_successor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places.signal, "sigtimedwait", lambda _signals, _pause_s: object())
    with pytest.raises(SystemExit) as ended:
        Place()._rest(lived_s=1)
    assert ended.value.code == 0


def test_the_siblings_are_the_other_children_of_the_parent():
    """Its own process is none of them; one that has ended is told once, and nobody when the parent is gone."""
    siblings = Siblings(os.getpid())
    with subprocess.Popen(["sleep", "100"]) as other:
        siblings.look()
        assert siblings.lost() == set()
        other.kill()
    assert siblings.lost() == {other.pid}
    assert siblings.lost() == set()
    gone = Siblings(2**22 + 1)  # more than any id of a process
    gone.look()
    assert gone.lost() == set()
