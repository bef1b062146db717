"""The other processes of the same worker, as far as the system tells."""

import os
from pathlib import Path


class Siblings:
    """Knows of those that it has seen. Where the system does not list the children of a process it knows of none."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def look(self) -> None:
        """Note who is there."""
        self._known |= _children_of_our_parent()

    def lost(self) -> set[int]:
        """The ids of those that were there and have ended; each is told once."""
        gone = self._known - _children_of_our_parent()
        self._known -= gone
        return gone


def _children_of_our_parent() -> set[int]:
    parent = os.getppid()
    try:
        listed = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    except OSError:
        return set()
    return {int(pid) for pid in listed.split()} - {os.getpid()}
