"""The other children of one parent, as far as the system tells."""

import os
from pathlib import Path


class Siblings:
    """Knows of those that it has seen. Where the system does not list the children of a process it knows of none."""

    def __init__(self, parent: int) -> None:
        self._list = Path(f"/proc/{parent}/task/{parent}/children")
        self._known: set[int] = set()

    def look(self) -> None:
        """Note who is there."""
        self._known |= self._there() or set()

    def lost(self) -> set[int]:
        """The ids of those that were there and have ended; each is told once."""
        there = self._there()
        gone = self._known - there if there is not None else set()
        self._known -= gone
        return gone

    def _there(self) -> set[int] | None:
        """None when the system does not tell, or the parent itself has ended."""
        try:
            return {int(pid) for pid in self._list.read_text(encoding="ascii").split()} - {os.getpid()}
        except OSError:
            return None
