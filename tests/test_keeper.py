"""What a worker process does about its keeper, and tells an operator."""

import logging
import os
import signal
import threading
from types import SimpleNamespace

import pytest

from gateway import exits
from middleware import keeper as keepers
from middleware.keeper import Keeper
from middleware.place import Place


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The signals that are sent, to whom; nobody gets them."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(keepers.os, "kill", lambda pid, signum: sent.append((pid, signum)))
    return sent


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What an operator is told through Sentry."""
    texts: list[str] = []
    monkeypatch.setattr(keepers.sentry, "tell_operator", lambda _what, text: texts.append(text))
    return texts


class Stop(threading.Event):
    """Set after some looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def wait(self, timeout: float | None = None) -> bool:
        self.looks -= 1
        return self.looks < 0


def in_a_place(stopping: threading.Event, *, keeper: int | None = None, predecessor: str | None = None) -> Keeper:
    made = Keeper(stopping)
    made.place = place = Place()
    place.keeper, place.master = os.getppid() if keeper is None else keeper, os.getpid()
    place.predecessor = predecessor
    return made


def boot(keeper: Keeper, killed: list[tuple[int, int]]) -> bool:
    """Whether the process counts as up after it."""
    keeper.after_worker_boot(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    return keeper.place is not None and keeper.place._is_up[0] == 1 and bool(killed)


def test_a_successor_tells_an_operator_what_has_happened(
    killed: list[tuple[int, int]], told: list[str], caplog: pytest.LogCaptureFixture
):
    """F52: the keeper has no log and no Sentry; it can hang in neither."""
    assert boot(in_a_place(Stop(0), predecessor="was killed by signal 9"), killed)
    assert caplog.messages == ["A process of the worker was killed by signal 9: this one has taken its place"]
    assert told == caplog.messages


def test_the_first_in_a_place_has_nothing_to_tell(killed: list[tuple[int, int]], caplog: pytest.LogCaptureFixture):
    assert boot(in_a_place(Stop(0)), killed)
    assert caplog.messages == []


def test_who_has_no_keeper_any_more_drains(killed: list[tuple[int, int]], caplog: pytest.LogCaptureFixture):
    """F68: nobody would hand on to it that the worker is to stop."""
    keeper = in_a_place(Stop(3), keeper=1 if os.getppid() != 1 else 2)
    assert keeper.place is not None
    keeper._watch(keeper.place)
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert caplog.records[0].levelno == logging.CRITICAL


def test_a_keeper_of_another_process_that_has_ended_is_told_once(
    told: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """F68: nobody replaces it."""
    gone = [{7}, set[int](), set[int]()]
    monkeypatch.setattr(keepers.Siblings, "lost", lambda _self: gone.pop(0))
    keeper = in_a_place(Stop(3))
    assert keeper.place is not None
    keeper._watch(keeper.place)
    assert caplog.messages == ["1 of the worker's processes ended by itself: the others go on, restart the worker"]
    assert told == caplog.messages


def test_where_the_system_cannot_wait_for_signals_nothing_is_kept(monkeypatch: pytest.MonkeyPatch):
    """macOS: it is as Dramatiq does it."""
    monkeypatch.delattr(signal, "sigtimedwait")
    keeper = Keeper(threading.Event())
    keeper.after_process_boot(SimpleNamespace())  # type: ignore[arg-type]
    keeper.after_worker_boot(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    assert keeper.place is None


def test_a_process_that_cannot_be_forked_ends(monkeypatch: pytest.MonkeyPatch):
    """Dramatiq would swallow the error, and go on with a process that hears no signal."""

    def full(_self: Place) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(Place, "enter", full)
    with pytest.raises(SystemExit) as ended:
        Keeper(threading.Event()).after_process_boot(SimpleNamespace())  # type: ignore[arg-type]
    assert ended.value.code == exits.FAULT
