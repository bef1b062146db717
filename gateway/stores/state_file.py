"""One SQLite file that the processes of a machine share: the places of keys, cooldowns, the ledger."""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

from gateway.errors import StoreUnavailable
from gateway.stores.checkpoint import checkpoint_beside
from gateway.stores.schema import ADDITIONS, SCHEMA, VERSION

#: How long a statement waits for another process's transaction, in seconds. Transactions take well under a millisecond.
BUSY_S = 10.0

#: How often it is tried again meanwhile, in seconds.
BUSY_POLL_S = 0.005

#: How long other processes of ours are waited for before SQLite is asked, in seconds; and after how long it is looked
#: first, and later at most: with many processes, looking itself would take the CPU from the one whose turn it is.
QUEUE_S, QUEUE_POLL_S, QUEUE_LONGEST_POLL_S = 2.0, 0.0001, 0.01

#: After how many writes a process has the write-ahead log carried over into the file, on a thread beside them. It takes
#: some 10 ms, most of it two fsyncs.
CHECKPOINT_WRITES = 1000

#: How long the log may become, in pages of 4 KiB, before a writer does it itself while all others wait. A write adds
#: two or three, and under full load the log never ends for the one beside.
LONGEST_LOG_PAGES = 16_000

SNAPSHOT = "BEGIN"

#: What to do about a file of another version of the worker, and what that costs.
REMEDY = (
    "Delete the file, or point STATE_PATH elsewhere: the rests of keys and their uses of the last minute are forgotten,"
    " and the answers that are kept, so a request that comes again is paid for again"
)

_T = TypeVar("_T")


class _Opened:
    """What one process has open; nothing of it survives a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.inode = 0
        self.queue: TextIO | None = None
        self.writes = 0


class StateFile:
    """Transactions on one SQLite file, safe to share between threads and across a fork.

    A commit is durable against the death of the process, SIGKILL included. The file is opened by the first
    transaction of a process and created, with its folder and for the owner's eyes only, when it is missing. Everything
    that SQLite or the file system refuses is raised as StoreUnavailable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # By process id: SQLite must not use a connection that came through a fork, nor may the child close it.
        self._opened: dict[int, _Opened] = {}

    def run(self, statement: str, parameters: Mapping[str, object] | Sequence[object]) -> list[Any]:
        """The rows of one statement, which is a transaction by itself."""
        with _Turn(self, begin=None) as db:
            return _patiently(lambda: db.execute(statement, parameters).fetchall())

    def transaction(self) -> "_Turn":
        """A transaction that has the write lock from its beginning; committed on leaving, undone on an error."""
        # Not deferred: two readers that both want to write afterwards cannot both have their way.
        return _Turn(self, begin="BEGIN IMMEDIATE")

    def snapshot(self) -> "_Turn":
        """A transaction that only reads and waits for no writer of another process."""
        return _Turn(self, begin=SNAPSHOT)

    def close(self) -> None:
        """Close this process's connection; the next transaction opens it again. Idempotent."""
        opened = self._opened.get(os.getpid())
        if opened is not None:
            with opened.lock:
                _close(opened)

    def written(self, opened: _Opened) -> None:
        """One write more is in the log."""
        opened.writes += 1  # by several threads at once: whether it counts each is all the same
        if opened.writes % CHECKPOINT_WRITES == 0:
            checkpoint_beside(self.path)

    def opened(self) -> "_Opened":
        """What this process has open."""
        found = self._opened.get(os.getpid())
        return self._opened.setdefault(os.getpid(), _Opened()) if found is None else found

    def open(self, opened: _Opened) -> sqlite3.Connection:
        """The connection; a new one when there is none to this very file. With the lock of `opened`."""
        if opened.connection is not None and _inode(self.path) == opened.inode:
            return opened.connection
        _close(opened)  # somebody has removed or replaced the file: the old one is shared with nobody new
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _one_at_a_time(self.path.parent):
            _make_private(self.path)
            with suppress(OSError):  # another user's, who was here first: then without
                opened.queue = _private(self.path.with_name(f"{self.path.name}-queue"))
            opened.connection = connection = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            opened.inode = _inode(self.path)
            _patiently(lambda: _prepare(connection))
        return connection


class _Turn:
    """One thread's use of the connection. A class and no generator: every request takes four turns."""

    __slots__ = ("_begin", "_db", "_file", "_opened")

    def __init__(self, file: StateFile, *, begin: str | None) -> None:
        self._file = file
        self._begin = begin

    def __enter__(self) -> sqlite3.Connection:
        self._opened = self._file.opened()
        # Threads queue here rather than in SQLite.
        self._opened.lock.acquire()
        try:
            self._db = db = self._file.open(self._opened)
            if self._begin != SNAPSHOT and self._opened.queue is not None:
                # A courtesy: it is SQLite that keeps writers apart, but whoever comes second there tries again later.
                _lock(self._opened.queue, QUEUE_S)
            if (begin := self._begin) is not None:
                _patiently(lambda: db.execute(begin))
        except BaseException as error:
            self._leave(error)
            raise
        return self._db

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            if self._begin is not None:
                self._db.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as failure:
            self._leave(failure)
            raise
        self._leave(error)
        if self._begin != SNAPSHOT and error is None:
            self._file.written(self._opened)

    def _leave(self, error: BaseException | None) -> None:
        """Give the connection to the next thread. Raises StoreUnavailable for what SQLite or the system has refused."""
        try:
            if isinstance(error, sqlite3.Error | OSError):
                # A fresh connection next time: a disk that was full, or a file that was put back, is noticed.
                _close(self._opened)
                raise StoreUnavailable(
                    f"The state file {self._file.path} cannot be used: {error}. See STATE_PATH: it must be a file that "
                    f"this user may write, on a local disk"
                ) from error
        finally:
            if self._opened.queue is not None:
                fcntl.flock(self._opened.queue, fcntl.LOCK_UN)
            self._opened.lock.release()


def _patiently(use: Callable[[], _T]) -> _T:
    """What `use` returns, tried again while another program writes. Raises sqlite3.Error, after BUSY_S also for that.

    SQLite can wait by itself, but it does so inside of one call, in which nothing else of a worker on greenlets runs.
    """
    until = time.monotonic() + BUSY_S
    while True:
        try:
            return use()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(BUSY_POLL_S)


def _lock(file: TextIO | int, patience_s: float) -> bool:
    """Lock a file against other processes; False when it was not to be had in time. Others may run meanwhile."""
    until, pause_s = time.monotonic() + patience_s, QUEUE_POLL_S
    while time.monotonic() < until:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, QUEUE_LONGEST_POLL_S)
        else:
            return True
    return False


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that start together prepare the file one after the other: SQLite has none wait to switch to WAL."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor, BUSY_S):
            raise TimeoutError(f"another process prepares it for more than {BUSY_S:g} s")
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # gevent closes a folder later than it says
        os.close(descriptor)


def _make_private(path: Path) -> None:
    """Have a file that only its owner reads: it holds answers. SQLite gives its side files the same mode."""
    try:
        # Never opened once it exists: closing it would end SQLite's locks on it in this process.
        # https://www.sqlite.org/howtocorrupt.html section 2.2
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        with suppress(PermissionError):  # another user's file, shared on purpose
            path.chmod(0o600)


def _private(path: Path) -> TextIO:
    return open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600), encoding="utf-8")


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit is in the operating system's hands and so outlives this process; FULL would add an fsync, milliseconds,
    # to every one, for the sake of a power cut, after which RabbitMQ has lost its unsynced messages as well.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LONGEST_LOG_PAGES}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(SCHEMA)
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"it has form {version}, this program reads form {VERSION}. {REMEDY}")
    connection.executescript(ADDITIONS)


def _close(opened: _Opened) -> None:
    if opened.connection is not None:
        opened.connection.close()
        opened.connection = None
    if opened.queue is not None:
        opened.queue.close()
        opened.queue = None


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - for every turn, and Path.stat takes twice the time
    except FileNotFoundError:
        return 0
