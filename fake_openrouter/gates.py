"""Named points at which calls wait until a test lets them go."""

import asyncio


class Gates:
    """A gate is closed until it is opened, and stays open until `clear()`."""

    def __init__(self) -> None:
        self._gates: dict[str, asyncio.Event] = {}

    async def passed(self, name: str) -> None:
        """Return when the gate is open."""
        await self._gates.setdefault(name, asyncio.Event()).wait()

    def open(self, name: str) -> None:
        self._gates.setdefault(name, asyncio.Event()).set()

    def clear(self) -> None:
        """Close every gate; who waits at one now may go on."""
        for gate in self._gates.values():
            gate.set()
        self._gates.clear()
