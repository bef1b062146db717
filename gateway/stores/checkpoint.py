"""Carries the write-ahead log of a SQLite file over into the file, beside those who write."""

import _thread
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path


def checkpoint_beside(path: Path) -> None:
    """Have `checkpoint` done on a thread of its own. Returns at once."""
    _on_thread_of_system(partial(checkpoint, path))


def checkpoint(path: Path) -> None:
    """Carry the log over into the file, as far as nobody reads it; nobody waits for that."""
    where = f"{path.absolute().as_uri()}?mode=rw"  # and not made when it is missing
    # What is wrong with the file or the disk, the next write says.
    with suppress(sqlite3.Error), closing(sqlite3.connect(where, uri=True)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _on_thread_of_system(work: Callable[[], object]) -> None:
    """Start `work` on a thread of its own, also where gevent has made greenlets of threads: it would hold them all up.

    It may use nothing that gevent has replaced: no lock, no log. Where no thread is to be had it is not done.
    """
    monkey = sys.modules.get("gevent.monkey")
    start = _thread.start_new_thread if monkey is None else monkey.get_original("_thread", "start_new_thread")
    with suppress(RuntimeError):
        start(work, ())
