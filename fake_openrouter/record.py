"""What was asked, by whom and when."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

_SECRET_HEADERS = frozenset({"authorization", "x-goog-api-key"})


@dataclass(slots=True, eq=False)
class Call:
    """One call: its key only as a tail and a digest. `time` and `ended` are epoch seconds.

    `status` is None until an answer has begun; `aborted` when the caller left before the end of it, `limited` when the
    key had no place in its window: nobody pays for that one. `cost` is charged, whether the answer arrives or not.
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
    limited: bool = False
    generation_id: str | None = None
    cost: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields, and `in_flight`."""
        return {**asdict(self), "in_flight": self.ended is None}


class Record:
    """Keeps every call since the last `clear()`, in the order in which they were there as a whole.

    Each that is over is also a line of JSON in `log`, which keeps them all; it must be unbuffered, for this process
    can end at any time.
    """

    def __init__(self, log: BinaryIO | None = None) -> None:
        self._log = log
        self._arrival = asyncio.Event()
        self._calls: list[Call] = []
        self._running: set[Call] = set()
        self._max_running = 0
        self.limited = 0

    def begin(self, key: str, path: str, headers: Mapping[str, str]) -> Call:
        """A new call, in flight from now on; say that it has `arrived()` when what it asks is known."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        shown = {name: value for name, value in headers.items() if name.lower() not in _SECRET_HEADERS}
        call = Call(time.time(), key[-4:], digest, path, shown)
        self._running.add(call)
        self._max_running = max(self._max_running, len(self._running))
        return call

    def arrived(self, call: Call) -> None:
        """The call counts, and those who wait for it are told; unless it began before a `clear()`."""
        if call in self._running:
            self._calls.append(call)
            self._arrival.set()
            self._arrival = asyncio.Event()

    def end(self, call: Call, *, aborted: bool = False) -> None:
        """The call is over. Idempotent: the first end counts."""
        if call.ended is None:
            call.ended = time.time()
            call.aborted = aborted
            self._running.discard(call)
            if self._log is not None:
                self._log.write(json.dumps(call.as_json()).encode() + b"\n")

    async def wait_for(self, count: int, timeout_s: float) -> None:
        """Return when `count` calls have arrived, or after `timeout_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self._calls) < count:
                    await self._arrival.wait()

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls from number `since` on, as JSON."""
        return [call.as_json() for call in self._calls[since:]]

    def stats(self) -> dict[str, Any]:
        """`limited` counts what the windows refused, `statuses` what was answered, in whatever way it came about."""
        return {
            "total": len(self._calls),
            "in_flight": len(self._running),
            "max_in_flight": self._max_running,
            "limited": self.limited,
            "statuses": dict(Counter(str(call.status) for call in self._calls if call.status is not None)),
            "per_key": dict(Counter(call.key_last4 for call in self._calls)),
        }

    def clear(self) -> None:
        """Forget every call, those that still run included."""
        self._calls.clear()
        self._running.clear()
        self._max_running = 0
        self.limited = 0
