"""What was asked, by whom and when."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

_SECRET_HEADERS = frozenset({"authorization", "x-goog-api-key"})


@dataclass(slots=True, eq=False)
class Call:
    """One call: its key only as a tail and a digest. `time` and `ended` are epoch seconds.

    `status` is None until an answer has begun; `aborted` when the caller left before the end of it.
    """

    time: float
    key_last4: str
    key_digest: str
    path: str
    headers: dict[str, str]
    body: Any = None
    model: str | None = None
    prompt: str | None = None
    status: int | None = None
    ended: float | None = None
    aborted: bool = False


class Record:
    """Keeps every call since the last `clear()`, in order of arrival."""

    def __init__(self) -> None:
        self._arrival = asyncio.Condition()
        self._calls: list[Call] = []
        self._running: set[Call] = set()
        self._max_running = 0
        self.limited = 0

    def begin(self, key: str, path: str, headers: Mapping[str, str]) -> Call:
        """A new call, in flight from now on; `announce()` it when what it asks is known."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        shown = {name: value for name, value in headers.items() if name.lower() not in _SECRET_HEADERS}
        call = Call(time.time(), key[-4:], digest, path, shown)
        self._calls.append(call)
        self._running.add(call)
        self._max_running = max(self._max_running, len(self._running))
        return call

    async def announce(self) -> None:
        """Wake those who wait for calls."""
        async with self._arrival:
            self._arrival.notify_all()

    def end(self, call: Call, *, aborted: bool = False) -> None:
        """The call is over. Idempotent: the first end counts."""
        if call.ended is None:
            call.ended = time.time()
            call.aborted = aborted
            self._running.discard(call)

    async def wait_for(self, count: int, timeout_s: float) -> None:
        """Return when `count` calls have arrived, or after `timeout_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._arrival:
                await self._arrival.wait_for(lambda: len(self._calls) >= count)

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls from number `since` on, as JSON."""
        return [asdict(call) for call in self._calls[since:]]

    def stats(self) -> dict[str, Any]:
        return {
            "total": len(self._calls),
            "in_flight": len(self._running),
            "max_in_flight": self._max_running,
            "limited": self.limited,
            "per_key": dict(Counter(call.key_last4 for call in self._calls)),
        }

    def clear(self) -> None:
        """Forget every call, those that still run included."""
        self._calls.clear()
        self._running.clear()
        self._max_running = 0
        self.limited = 0
