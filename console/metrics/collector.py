"""Composes the metrics at each scrape, of the same state that commands and page show."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from console.metrics.counters import counters
from console.metrics.gauges import gauges, single
from console.metrics.today import Names, today
from console.opened import Opened
from console.state import State
from gateway.errors import StoreUnavailable
from gateway.secrets import ApiKey

Source = Callable[[], Opened]
Look = Callable[[Opened], State]


class StateCollector(Collector):
    """Metrics of all workers that share a store. While that is away there is `gemini_store_up 0`, and little else.

    `source` gives the settings and the stores, and raises StoreUnavailable as long as these cannot be opened.
    """

    def __init__(self, source: Source, look: Look) -> None:
        self._source = source
        self._look = look
        self._models = Names()
        self._store_errors = 0
        self._lock = threading.Lock()

    def describe(self) -> Sequence[Metric]:
        """Nothing: to be registered must cost no look at the state."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:  # of two that ask at once the second one has the names of the first
            yield from self._collected()

    def _collected(self) -> Iterator[Metric]:
        try:
            found = list(self._of_the_state(self._source()))
        except StoreUnavailable:
            self._store_errors += 1
            found = []
        yield single("gemini_store_up", "Whether the store of keys, answers and reports can be read.", bool(found))
        text = "Scrapes of this process for which the store could not be read."
        yield CounterMetricFamily("gemini_store_errors", text, value=self._store_errors)
        yield from found

    def _of_the_state(self, here: Opened) -> Iterator[Metric]:
        keys = here.settings.keys
        names = key_names(keys)
        yield from gauges(self._look(here), names)
        digests = [key.digest for key in keys]
        yield from counters(today(here.stores.usage, self._models), dict(zip(digests, names, strict=True)))


def key_names(keys: Sequence[ApiKey]) -> list[str]:
    """Names of keys for a label, each another one: masked, with a piece of the digest where the ends are the same."""
    masked = Counter(str(key) for key in keys)
    return [str(key) if masked[str(key)] == 1 else f"{key}-{key.digest[:6]}" for key in keys]
