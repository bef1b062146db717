"""`gemini health`: who is there, who hangs, who is in trouble; within milliseconds, and with nothing else running."""

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from console import cli
from console.__main__ import main
from console.health import health
from dev.launcher import ROOT
from dev.waiting import wait_until
from gateway import heartbeat
from gateway.heartbeat import LIFE_S, SIZE, Heartbeat, folder_of, signs
from gateway.settings import load_settings
from middleware.heartbeat import STARTS_WITHIN_S
from middleware.heartbeat import Heartbeat as Hook

#: What a probe must not load: each takes longer than all of it.
SLOW = {"typer", "rich", "redis", "pika", "pydantic", "requests", "dramatiq", "gevent", "sqlite3", "asyncio"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where signs of life are, of the settings of this test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATE_PATH", str(tmp_path / "state.sqlite3"))
    return tmp_path / "state.sqlite3-beats"


@pytest.fixture
def alive(folder: Path) -> Iterator[Heartbeat]:
    """A heartbeat of this process, which beats when it is told to."""
    made = Heartbeat(folder, lambda: None, every_s=3600)
    made.start()
    yield made
    assert made.stop()


def later(monkeypatch: pytest.MonkeyPatch, s: float) -> None:
    now = time.monotonic()
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now + s))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_process_that_beats_is_well(alive: Heartbeat, capsys: pytest.CaptureFixture[str]):
    assert health() == 0
    assert said(capsys) == "1 worker process lives\n"
    assert health(json_wanted=True) == 0
    (process,) = json.loads(said(capsys))["processes"]
    assert (process["pid"], process["is_well"]) == (os.getpid(), True)


def test_nobody_there_is_not_well(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Nor is it when the last one has ended in order; no file of it is left."""
    assert health() == 1
    made = Heartbeat(folder, lambda: None)
    made.start()
    made.stop()
    assert (health(), list(folder.iterdir())) == (1, [])
    assert str(folder) in said(capsys)


def test_a_process_that_beats_no_more_hangs(
    alive: Heartbeat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its lock says that it is there, its last beat that it does nothing; with the next beat it is well."""
    later(monkeypatch, LIFE_S + 1)
    assert health() == 1
    assert f"process {os.getpid()} hangs" in said(capsys)
    alive.beat()
    assert health() == 0


def test_a_process_in_trouble_says_why(folder: Path, capsys: pytest.CaptureFixture[str]):
    made = Heartbeat(folder, lambda: "it has deliveries and settles none")
    made.start()
    assert health() == 1
    made.stop()
    assert said(capsys) == f"process {os.getpid()}: it has deliveries and settles none\n"


def test_one_of_two_that_hangs_is_enough(alive: Heartbeat, folder: Path, capsys: pytest.CaptureFixture[str]):
    """Nobody else starts it again: a keeper does that with a process that has died."""
    other = folder / f"{socket.gethostname()}-1"
    with other.open("w") as file:
        file.write("0.0 \n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert health() == 1
    assert "process 1 hangs" in said(capsys)


def test_files_of_the_dead_and_of_other_machines_say_nothing(alive: Heartbeat, folder: Path):
    """A folder may be shared by containers; a process that was killed leaves a file without a lock."""
    dead, elsewhere = folder / f"{socket.gethostname()}-1", folder / "another-host-1"
    for path in (dead, elsewhere):
        path.write_text("0.0 \n")
    with elsewhere.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [sign.pid for sign in signs(folder)] == [os.getpid()]


def test_a_start_sweeps_the_files_of_the_dead(folder: Path):
    folder.mkdir()
    dead, elsewhere = folder / f"{socket.gethostname()}-1", folder / "another-host-1"
    for path in (dead, elsewhere):
        path.write_text("0.0 \n")
    made = Heartbeat(folder, lambda: None)
    made.start()
    assert (dead.exists(), elsewhere.exists()) == (False, True)
    made.stop()


def test_a_folder_that_was_cleaned_up_is_made_again(alive: Heartbeat, folder: Path):
    """With the next beat."""
    (file,) = folder.iterdir()
    file.unlink()
    folder.rmdir()
    assert health() == 1
    alive.beat()
    assert health() == 0


def test_a_beat_needs_no_more_room_than_the_one_before(folder: Path):
    """So a disk that is full stops none of them, and no worker is started again for it."""
    troubles = [None, "short", "ü" * 2000]
    made = Heartbeat(folder, lambda: troubles[-1])
    made.start()
    (file,) = folder.iterdir()
    sizes = set()
    while troubles:
        sizes.add(file.stat().st_size)
        (sign,) = signs(folder)
        assert (sign.trouble or "")[:5] == (troubles.pop() or "")[:5]
        if troubles:
            made.beat()
    made.stop()
    assert sizes == {SIZE}


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The process goes on without."""
    (tmp_path / "file").touch()
    made = Heartbeat(tmp_path / "file" / "beats", lambda: None)
    with caplog.at_level(logging.WARNING):
        made.start()
        made.beat()
    assert made.stop()
    assert [record.message.count("See STATE_PATH") for record in caplog.records] == [1]


def descriptors() -> int:
    """How many files this process has open; 0 where the system does not say."""
    return len([*Path("/proc/self/fd").glob("*")])


def test_a_disk_without_room_or_locks_is_tried_again_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Neither a file nor a descriptor, however often; it beats as soon as it can."""
    made = Heartbeat(folder, lambda: None, every_s=3600)
    opened = descriptors()

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr("gateway.heartbeat.fcntl.flock", refused)
        made.start()
        for _ in range(20):
            made.beat()
    assert list(folder.iterdir()) == []
    assert descriptors() == opened
    assert health() == 1
    made.beat()
    assert (health(), made.stop()) == (0, True)


def test_a_folder_that_cannot_be_read_is_said(folder: Path, capsys: pytest.CaptureFixture[str]):
    folder.touch()
    assert health() == 1
    assert "cannot be read" in said(capsys)


def test_the_thread_beats(folder: Path):
    calls: list[int] = []
    made = Heartbeat(folder, lambda: calls.append(1), every_s=0.01)
    made.start()
    wait_until(lambda: len(calls) > 2, timeout_s=20, what="beats")
    assert made.stop()


@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ({}, ""),
        ({"STATE_PATH": "/state/worker.sqlite3"}, "STATE_PATH=other"),
        ({"STATE_PATH": " '/state/quoted' "}, ""),
        ({"STATE_PATH": ""}, "STATE_PATH=from/the/file"),
        ({}, "STATE_PATH='quoted/file'\nLOG_LEVEL=INFO\n"),
    ],
)
def test_the_folder_is_beside_the_state_file_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], file: str
):
    """Environment, `.env`, default, quotes: as the settings have it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_PATH", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text(file)
    assert folder_of(os.environ) == Path(f"{load_settings(need_keys=False).state_path}-beats")


def test_a_probe_loads_next_to_nothing(folder: Path):
    """It is run every half minute: it costs what Python itself costs, and little more."""
    loaded = "import sys; sys.argv[1:] = ['health']; from console.__main__ import main; main(); print(*sys.modules)"
    environment = {"PATH": os.environ["PATH"], "STATE_PATH": os.environ["STATE_PATH"], "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", loaded], env=environment, cwd=folder.parent, capture_output=True, text=True, check=True
    )
    modules = set(ran.stdout.split())
    assert "console.health" in modules
    assert not SLOW & modules


def test_the_command_says_the_same(alive: Heartbeat, capsys: pytest.CaptureFixture[str]):
    """With its options."""
    assert cli.main(["health", "--json"]) == 0
    assert json.loads(said(capsys))["is_well"] is True


def test_the_short_way_is_for_the_bare_command(alive: Heartbeat, monkeypatch: pytest.MonkeyPatch):
    """Whatever else is typed goes the usual one."""
    monkeypatch.setattr("console.cli.main", lambda: 77)
    for arguments, code in ((["health"], 0), (["health", "--json"], 77), (["status"], 77)):
        monkeypatch.setattr("sys.argv", ["gemini", *arguments])
        assert main() == code


def worker() -> Any:
    return SimpleNamespace(workers=[], consumers={})


def test_a_worker_process_is_well_from_its_start_on(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """While it waits for RabbitMQ, and while it drains; not when its start takes too long, or it stands still."""
    life = SimpleNamespace(stands_still=False)
    hook = Hook(life)  # type: ignore[arg-type]
    hook.before_worker_boot(None, worker())  # type: ignore[arg-type]
    assert (health(), hook.trouble()) == (0, None)
    began = time.monotonic()
    monkeypatch.setattr("middleware.heartbeat.time", SimpleNamespace(monotonic=lambda: began + STARTS_WITHIN_S + 1))
    assert "has not started" in str(hook.trouble())
    hook.after_worker_boot(None, worker())  # type: ignore[arg-type]
    assert hook.trouble() is None
    life.stands_still = True
    assert "settles none" in str(hook.trouble())
    hook.after_worker_shutdown(None, worker())  # type: ignore[arg-type]
    assert signs(folder) == []
