"""The log of the state file is carried over by nobody who has a request to answer."""

import subprocess
import sys
from pathlib import Path

from gateway.stores.checkpoint import checkpoint


def test_a_file_that_has_gone_is_not_made_by_a_checkpoint(tmp_path: Path):
    """It would be open to all, and without its tables."""
    checkpoint(tmp_path / "gone.sqlite3")
    assert list(tmp_path.iterdir()) == []


NATIVE = """
from gevent import monkey
monkey.patch_all()
import _thread, threading
from gateway.stores.checkpoint import _on_thread_of_system
seen = []
_on_thread_of_system(lambda: seen.append(_thread.get_native_id()))
while not seen:
    threading.Event().wait(0.01)
assert seen[0] != _thread.get_native_id(), "a greenlet"
"""


def test_greenlets_are_not_held_up_by_the_log():
    """A checkpoint waits for the disk, and greenlets share a thread."""
    subprocess.run([sys.executable, "-c", NATIVE], check=True, timeout=60)
