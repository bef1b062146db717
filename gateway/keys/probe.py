"""Asks the provider again about keys that it has refused: a healthy key can be answered 401 while it has an outage."""

import heapq
import logging
import threading
import time
from collections.abc import Callable

from gateway.errors import AuthenticationFailed, ProviderError, StoreUnavailable
from gateway.keys.pool import KeyPool
from gateway.reporting import sentry
from gateway.secrets import ApiKey

#: Why a key rests that the provider does not know: a 401 that is about nothing else. The one rest that a probe ends.
UNKNOWN_KEY = "http_401"

#: Seconds from a refusal to the first probe, and from each probe to the next; the last one repeats.
PAUSES_S = (5.0, 15.0, 30.0, 60.0, 300.0)

#: After how many refused probes an operator is told that a key is dead.
PROBES_UNTIL_DEAD = 3

#: How long the provider has for an answer to a probe, in seconds.
DEADLINE_S = 10.0

logger = logging.getLogger(__name__)

Ask = Callable[[ApiKey], object]


class Prober:
    """Ends the rest of a refused key as soon as `ask(key)` is accepted; one thread, started with the first suspect.

    A rest for another reason goes on; of two that the key itself has had, only the longer one is known. Nothing waits
    for it, and without it rests end by themselves, later. `ask` raises AuthenticationFailed for a key that is still
    refused, another ProviderError where nothing was learnt. Thread-safe.
    """

    def __init__(self, pool: KeyPool, ask: Ask, *, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._pool = pool
        self._ask = ask
        self._pauses_s = pauses_s
        self._changed = threading.Condition()
        self._suspects: dict[ApiKey, int] = {}  # with the number of refused probes
        self._due: list[tuple[float, str, ApiKey]] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    def suspect(self, key: ApiKey) -> None:
        """The provider has refused `key`: ask about it, unless that is under way. Returns at once."""
        with self._changed:
            if key in self._suspects or self._stopping:
                return
            self._suspects[key] = 0
            self._plan(key, self._pauses_s[0])
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
                again_in_s = self._probe(key)
            except StoreUnavailable as error:
                logger.warning("Key %s stays where it is: %s", key, error)
                again_in_s = self._pauses_s[-1]
            with self._changed:
                if again_in_s is None:
                    del self._suspects[key]
                else:
                    self._plan(key, again_in_s)

    def _plan(self, key: ApiKey, pause_s: float) -> None:
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

    def _probe(self, key: ApiKey) -> float | None:
        """Ask about a key; seconds until the next probe, None when it is not needed."""
        try:
            self._ask(key)
        except AuthenticationFailed:
            return self._refused(key)
        except ProviderError as error:
            logger.info("Key %s could not be probed: %s", key, error)
            return self._pauses_s[-1]
        self._pool.clear(key.digest, UNKNOWN_KEY)
        logger.info("Key %s is accepted again: it no longer rests for having been refused", key)
        return None

    def _refused(self, key: ApiKey) -> float:
        self._suspects[key] += 1
        count = self._suspects[key]
        if count == PROBES_UNTIL_DEAD:
            logger.error("Key %s was refused %d times in a row: it looks revoked", key, count + 1)
            sentry.tell_operator("key_dead", f"refused {count + 1} times in a row: it looks revoked", about=str(key))
        return self._pauses_s[min(count, len(self._pauses_s) - 1)]
