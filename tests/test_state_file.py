"""The SQLite file: who may read it, what survives, and what an operator reads when it cannot be used."""

import fcntl
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from dev.waiting import wait_until
from gateway.errors import StoreUnavailable
from gateway.stores.schema import VERSION
from gateway.stores.state_file import StateFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StateFile]:
    opened = StateFile(tmp_path / "new" / "folder" / "state.sqlite3")
    yield opened
    opened.close()


def count(file: StateFile) -> int:
    """Add one to a number in the file, and return it."""
    with file.transaction() as db:
        db.execute("UPDATE clock SET turn = turn + 1")
        return int(db.execute("SELECT turn FROM clock").fetchone()[0])


def test_nothing_happens_before_the_first_transaction(file: StateFile):
    """A constructor stores its arguments."""
    assert not file.path.parent.exists()


def test_only_the_owner_reads_it(file: StateFile):
    """It holds answers; that goes for SQLite's side files too, and for a file that was open to all."""
    file.path.parent.mkdir(parents=True)
    file.path.touch(mode=0o666)
    count(file)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir()}
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


def test_writers_wait_for_one_of_another_process_outside_of_sqlite(file: StateFile, monkeypatch: pytest.MonkeyPatch):
    """Its write takes microseconds, and SQLite would sleep for a millisecond at least."""
    monkeypatch.setattr("gateway.stores.state_file.QUEUE_S", 3600.0)
    count(file)
    with file.path.with_name("state.sqlite3-queue").open("w") as queue, ThreadPoolExecutor(1) as pool:
        fcntl.flock(queue, fcntl.LOCK_EX)
        written = pool.submit(count, file)
        assert wait([written], timeout=0.2).not_done
        fcntl.flock(queue, fcntl.LOCK_UN)
        assert written.result(60) == 2


def test_a_writer_that_waits_long_looks_less_often(file: StateFile, monkeypatch: pytest.MonkeyPatch):
    """Sixty-four processes that look all the time leave no CPU to the one whose turn it is."""
    pauses: list[float] = []
    monkeypatch.setattr("gateway.stores.state_file.QUEUE_S", 3600.0)
    count(file)
    with file.path.with_name("state.sqlite3-queue").open("w") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)

        def sleep(pause_s: float) -> None:
            pauses.append(pause_s)
            if len(pauses) == 20:
                fcntl.flock(queue, fcntl.LOCK_UN)

        monkeypatch.setattr("gateway.stores.state_file.time.sleep", sleep)
        assert count(file) == 2
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.0001, 0.01)


def test_a_frozen_process_holds_no_writer_for_long(file: StateFile, monkeypatch: pytest.MonkeyPatch):
    """Who keeps writers apart is SQLite: the queue before it is a courtesy."""
    monkeypatch.setattr("gateway.stores.state_file.QUEUE_S", 0.05)
    count(file)
    with file.path.with_name("state.sqlite3-queue").open("w") as queue:
        fcntl.flock(queue, fcntl.LOCK_EX)
        assert count(file) == 2


def test_a_failed_transaction_leaves_nothing(file: StateFile):
    """All of it or none."""
    count(file)

    def fail() -> None:
        with file.transaction() as db:
            db.execute("UPDATE clock SET turn = 100")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert count(file) == 2


def test_it_can_be_used_after_close(file: StateFile):
    """Closing gives the descriptors back, twice is once."""
    count(file)
    file.close()
    file.close()
    assert count(file) == 2


def test_a_file_that_was_removed_is_made_again(file: StateFile):
    """An operator who deletes it starts afresh; the processes do not go on in a file without a name."""
    count(file)
    for path in file.path.parent.iterdir():
        path.unlink()
    other = StateFile(file.path)
    assert [count(file), count(other)] == [1, 2]
    other.close()


@pytest.mark.parametrize("content", [b"this is not a database, and long enough to be one" * 100, b"SQLite format 3\0"])
def test_a_file_of_something_else_is_refused(file: StateFile, content: bytes):
    """One line that names the file and the setting; the file is left as it was."""
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match="STATE_PATH") as caught:
        count(file)
    assert str(file.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert file.path.read_bytes() == content


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path):
    """A folder, or a folder below a file."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "state.sqlite3"):
        with pytest.raises(StoreUnavailable, match="STATE_PATH"):
            count(StateFile(path))


@pytest.mark.parametrize("form", [VERSION - 1, VERSION + 1])
def test_a_file_of_another_version_is_refused(file: StateFile, form: int):
    """In one line that says what to do and what that costs; every time, and the file is left as it was."""
    with file.transaction() as db:
        db.execute(f"PRAGMA user_version = {form}")
    file.close()
    for _ in range(2):
        with pytest.raises(
            StoreUnavailable, match=f"it has form {form}, .* Delete the file, .* paid for again"
        ) as caught:
            count(file)
        assert "\n" not in str(caught.value)
    with closing(sqlite3.connect(file.path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (form,)


def test_it_recovers_when_the_fault_is_gone(file: StateFile):
    """What was refused once is tried anew."""
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(b"x" * 5000)
    with pytest.raises(StoreUnavailable):
        count(file)
    file.path.unlink()
    assert count(file) == 1


def test_processes_that_start_together_all_open_it(file: StateFile):
    """The first of them makes the tables."""
    with get_context("spawn").Pool(4) as children:
        found = children.map(count_once, [str(file.path)] * 8, chunksize=1)
    assert sorted(found) == list(range(1, 9))


def test_opening_waits_while_another_process_prepares_the_file(file: StateFile, monkeypatch: pytest.MonkeyPatch):
    """SQLite has nobody wait to switch to the write-ahead log: it refuses at once."""
    monkeypatch.setattr("gateway.stores.state_file.BUSY_S", 3600.0)
    file.path.parent.mkdir(parents=True)
    folder = os.open(file.path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(count, file)
        assert wait([opening], timeout=0.1).done == set()
        os.close(folder)
        assert opening.result(timeout=60) == 1


def count_once(path: str) -> int:
    opened = StateFile(Path(path))
    try:
        return count(opened)
    finally:
        opened.close()


FORKED = """
import os, sys
from pathlib import Path
from gateway.stores.state_file import StateFile
file = StateFile(Path(sys.argv[1]))
def count():
    with file.transaction() as db:
        db.execute("UPDATE clock SET turn = turn + 1")
with file.transaction() as db:
    child = os.fork()  # worse than any real one: in the middle of a transaction, with the lock held
    if child == 0:
        opened = set(file._opened)
        file._opened[os.getpid()] = type(file._opened[os.getppid()])()
        os._exit(0 if opened == {os.getppid()} else 1)
    db.execute("UPDATE clock SET turn = turn + 1")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
child = os.fork()
for _ in range(200):
    count()
if child == 0:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with file.snapshot() as db:
    assert db.execute("SELECT turn FROM clock").fetchone() == (401,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
"""


def test_a_fork_opens_a_connection_of_its_own(file: StateFile):
    """Dramatiq forks its worker processes; SQLite connections do not survive that."""
    done = subprocess.run([sys.executable, "-c", FORKED, str(file.path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path):
    """The text says whose permission is missing."""
    tmp_path.chmod(0o500)
    with pytest.raises(StoreUnavailable, match="this user may write"):
        count(StateFile(tmp_path / "state.sqlite3"))


def carried_over(file: StateFile, folder: Path) -> int:
    """The number of `count`, as far as it is in the file itself and not only in its log."""
    alone = folder / "alone.sqlite3"
    alone.write_bytes(file.path.read_bytes())
    with closing(sqlite3.connect(alone)) as connection:
        try:
            return int(connection.execute("SELECT turn FROM clock").fetchone()[0])
        except sqlite3.Error:  # nothing of it yet, or half a page
            return 0


def test_the_log_is_carried_over_beside_the_writers(file: StateFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Now and then, by nobody who has a request to answer."""
    monkeypatch.setattr("gateway.stores.state_file.CHECKPOINT_WRITES", 50)
    for _ in range(49):
        count(file)
    assert carried_over(file, tmp_path) == 0
    count(file)
    wait_until(lambda: carried_over(file, tmp_path) == 50, what="fifty writes in the file")


def test_a_write_needs_no_thread_for_the_log(file: StateFile, monkeypatch: pytest.MonkeyPatch):
    """A machine may have none left; the log then is carried over by a writer, later."""

    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("gateway.stores.state_file.CHECKPOINT_WRITES", 1)
    monkeypatch.setattr("_thread.start_new_thread", start)
    assert [count(file), count(file)] == [1, 2]
