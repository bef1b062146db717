"""One SQLite file that the processes of a machine share: the places of keys, cooldowns, the ledger."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.errors import StoreUnavailable

#: The form of the tables, also the `user_version` in SCHEMA; a file of a later form is refused, not guessed at.
VERSION = 3

#: How long a statement waits for another process's transaction, in seconds. Transactions take well under a millisecond.
BUSY_S = 10.0

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE clock (one INTEGER PRIMARY KEY CHECK (one = 1), latest REAL, offset REAL, turn INTEGER);
INSERT INTO clock VALUES (1, 0.0, 0.0, 0);

-- ready_at = max(window_until, rests_until, when enough flights have ended): kept ready-made, so that a thousand keys
-- cost what ten do.
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, digest TEXT UNIQUE, account TEXT, turn INTEGER, window_until REAL,
    rests_until REAL, refused INTEGER, ready_at REAL, seen_at REAL
);
CREATE INDEX keys_by_turn ON keys (turn, id, ready_at, digest);
CREATE INDEX keys_by_ready ON keys (ready_at, digest);
CREATE INDEX keys_by_account ON keys (account);
CREATE INDEX keys_by_refusal ON keys (refused, rests_until, digest);
CREATE TABLE rings (ring TEXT PRIMARY KEY, seen_at REAL) WITHOUT ROWID;
CREATE TABLE uses (digest TEXT, at REAL, lease TEXT, PRIMARY KEY (digest, at, lease)) WITHOUT ROWID;
CREATE TABLE flights (digest TEXT, ends_at REAL, lease TEXT, PRIMARY KEY (digest, ends_at, lease)) WITHOUT ROWID;
CREATE TABLE cooldowns (
    subject TEXT PRIMARY KEY, until REAL, kind TEXT, source TEXT, reason TEXT
) WITHOUT ROWID;
CREATE INDEX cooldowns_by_end ON cooldowns (until);

CREATE TABLE ledger (
    request_id TEXT, digest TEXT, answered INTEGER, token TEXT, delivery TEXT, lease_ends_at REAL,
    message_id TEXT, failure INTEGER, published INTEGER, expires_at REAL, envelope BLOB, hop INTEGER,
    PRIMARY KEY (request_id, digest)
);
CREATE INDEX ledger_by_end ON ledger (expires_at);
PRAGMA user_version = 3;
COMMIT;
"""

#: From each earlier form to the next one.
MIGRATIONS = {
    1: """
BEGIN IMMEDIATE;
ALTER TABLE ledger ADD COLUMN hop INTEGER DEFAULT 0;
PRAGMA user_version = 2;
COMMIT;
""",
    2: """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS flights (
    digest TEXT, ends_at REAL, lease TEXT, PRIMARY KEY (digest, ends_at, lease)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_refusal ON keys (refused, rests_until, digest);
PRAGMA user_version = 3;
COMMIT;
""",
}


class _Opened:
    """What one process has open; nothing of it survives a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        self.inode = 0


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

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """The connection for one statement, which is a transaction by itself."""
        with self._connection() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has the write lock from its beginning; committed on leaving, undone on an error."""
        with self._connection() as connection:
            # Not deferred: two readers that both want to write afterwards cannot both have their way.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A transaction that only reads and waits for no writer of another process."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Close this process's connection; the next transaction opens it again. Idempotent."""
        opened = self._opened.get(os.getpid())
        if opened is not None:
            with opened.lock:
                _close(opened)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        opened = self._opened.setdefault(os.getpid(), _Opened())
        # Threads queue here rather than in SQLite, which would have them sleep and try again.
        with opened.lock:
            try:
                yield self._open(opened)
            except (sqlite3.Error, OSError) as error:
                # A fresh connection next time: a disk that was full, or a file that was put back, is noticed.
                _close(opened)
                raise StoreUnavailable(
                    f"The state file {self.path} cannot be used: {error}. See STATE_PATH: it must be a file that this "
                    f"user may write, on a local disk"
                ) from error

    def _open(self, opened: _Opened) -> sqlite3.Connection:
        if opened.connection is not None and _inode(self.path) == opened.inode:
            return opened.connection
        _close(opened)  # somebody has removed or replaced the file: the old one is shared with nobody new
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _one_at_a_time(self.path.parent):
            _make_private(self.path)
            opened.connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            opened.inode = _inode(self.path)
            _prepare(opened.connection)
        return opened.connection


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes that start together prepare the file one after the other: SQLite has none wait to switch to WAL."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
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


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit is in the operating system's hands and so outlives this process; FULL would add an fsync, milliseconds,
    # to every one, for the sake of a power cut, after which RabbitMQ has lost its unsynced messages as well.
    connection.execute("PRAGMA synchronous = NORMAL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(SCHEMA)
    elif version > VERSION:
        raise sqlite3.DatabaseError(f"it has form {version}, this program reads form {VERSION}")
    else:
        for older in range(version, VERSION):
            connection.executescript(MIGRATIONS[older])


def _close(opened: _Opened) -> None:
    if opened.connection is not None:
        opened.connection.close()
        opened.connection = None


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
