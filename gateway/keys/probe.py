"""Asks the provider about keys that rest because a status was read so: a guess, which must not make an outage.

A healthy key can be answered 401 while the provider has one, and a 402 or 403 can be about something else.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import AuthenticationFailed, ProviderError, StoreUnavailable
from gateway.keys.pool import KeyPool
from gateway.reporting import sentry
from gateway.secrets import ApiKey

#: Seconds from a refusal to the first probe, and from each probe to the next; the last one repeats. A key that is
#: accepted when it is asked about and refused when it is used begins further on each time, until it works so long.
PAUSES_S = (5.0, 15.0, 30.0, 60.0, 300.0)
WORKS_AGAIN_S = 600.0

#: After how many refused probes an operator is told that a key is dead.
PROBES_UNTIL_DEAD = 3

#: How long the provider has for an answer to a probe, in seconds.
DEADLINE_S = 10.0

logger = logging.getLogger(__name__)

Ask = Callable[[ApiKey], object]


@dataclass
class _Suspect:
    """A key that is asked about: why it rests, how often it was asked about, and refused."""

    reasons: set[str]
    asked: int
    refusals: int = 0


class Prober:
    """Finds out about refused keys by `ask(key)`; one thread, started with the first suspect.

    What is accepted no longer rests; what is refused rests because the provider has said so, and is asked about again.
    A rest for another reason goes on; of two that the key itself has had, only the longer one is known. Nothing waits
    for it, and without it rests end by themselves, later. `ask` raises AuthenticationFailed for a key that is still
    refused, another ProviderError where nothing was learnt. Thread-safe.
    """

    def __init__(self, pool: KeyPool, ask: Ask, *, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._pool = pool
        self._ask = ask
        self._pauses_s = pauses_s
        self._changed = threading.Condition()
        self._suspects: dict[ApiKey, _Suspect] = {}
        self._accepted: dict[ApiKey, tuple[int, float]] = {}  # how often lately, and when
        self._due: list[tuple[float, str, ApiKey]] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    def suspect(self, key: ApiKey, reason: str) -> None:
        """`key` rests for `reason`, by a guess: ask about it, unless that is under way. Returns at once."""
        with self._changed:
            if self._stopping:
                return
            if key in self._suspects:
                self._suspects[key].reasons.add(reason)
                return
            self._suspects[key] = _Suspect({reason}, asked=self._accepted_lately(key))
            self._plan(key)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="key-prober", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """Ask no more; whether the thread has ended within `timeout_s` seconds. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        while (key := self._next()) is not None:
            try:
                is_settled = self._probe(key)
            except StoreUnavailable as error:
                logger.warning("Key %s stays where it is: %s", key, error)
                is_settled = False
            with self._changed:
                if is_settled:
                    del self._suspects[key]
                else:
                    self._plan(key)

    def _plan(self, key: ApiKey) -> None:
        """Ask about the key after a pause, which is longer each time, whatever came of it."""
        suspect = self._suspects[key]
        pause_s = self._pauses_s[min(suspect.asked, len(self._pauses_s) - 1)]
        suspect.asked += 1
        heapq.heappush(self._due, (time.monotonic() + pause_s, key.digest, key))

    def _next(self) -> ApiKey | None:
        """The next suspect, when its time has come; None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait_s)
        return None

    def _probe(self, key: ApiKey) -> bool:
        """Ask about a key; whether that has settled it."""
        try:
            self._ask(key)
        except AuthenticationFailed:
            self._refused(key)
            return False
        except ProviderError as error:
            logger.info("Key %s could not be probed: %s", key, error)
            return False
        for reason in self._reasons(key):
            self._pool.clear(key.digest, reason)
        self._accepted[key] = (self._accepted_lately(key) + 1, time.monotonic())
        logger.info("Key %s is accepted again: it no longer rests for having been refused", key)
        return True

    def _accepted_lately(self, key: ApiKey) -> int:
        times, at = self._accepted.get(key, (0, 0.0))
        return times if time.monotonic() - at < WORKS_AGAIN_S else 0

    def _reasons(self, key: ApiKey) -> list[str]:
        with self._changed:
            return sorted(self._suspects[key].reasons)

    def _refused(self, key: ApiKey) -> None:
        self._pool.confirm(key.digest, self._reasons(key)[0])
        self._suspects[key].refusals += 1
        count = self._suspects[key].refusals
        if count == PROBES_UNTIL_DEAD:
            logger.error("Key %s was refused %d times in a row: it looks revoked", key, count + 1)
            sentry.tell_operator("key_dead", f"refused {count + 1} times in a row: it looks revoked", about=str(key))
