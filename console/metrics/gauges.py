"""What is now, as metrics: workers, queues, waits, keys."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily

from console.key_doctor import Finding
from console.state import State
from gateway.usage.store import Seen, Waiting

#: A row of a metric: the values of its labels, and its own.
Row = tuple[Sequence[str], float]

WORKER_STATES = ("ready", "not_ready", "gone")
KEY_STATES = ("ready", "window_full", "limited", "refused")


def gauge(name: str, text: str, labels: Sequence[str], rows: Iterable[Row]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        made.add_metric(values, value)
    return made


def single(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def gauges(state: State, key_names: Sequence[str]) -> Iterator[GaugeMetricFamily]:
    """Everything of a state; what RabbitMQ has not said is left out."""
    yield single("gemini_rabbitmq_up", "Whether RabbitMQ has said how deep the queues are.", state.queues is not None)
    yield from _workers(state.workers)
    yield from _queues(state)
    yield from _waits(state.waits)
    yield from _keys(dict(zip(key_names, state.keys, strict=True)))


def _workers(workers: Sequence[Seen]) -> Iterator[GaugeMetricFamily]:
    living = [seen for seen in workers if seen.lives]
    processes = [seen.process for seen in living]
    states = Counter({(state, ""): 0 for state in WORKER_STATES})
    states.update((_state(seen), seen.process.version) for seen in workers)
    text = "Worker processes by state and version; one that is gone has not said that it ends."
    rows = [(labels, count) for labels, count in states.items() if labels[1] or not _has(states, labels[0])]
    yield gauge("gemini_worker_processes", text, ["state", "version"], rows)
    text = "Age of the last report of the worker process that lives and has been silent for longest."
    if living:
        yield single("gemini_worker_report_age_seconds", text, max(seen.ago_s for seen in living))
    flight = sum(process.in_flight for process in processes)
    yield single(
        "gemini_worker_threads", "Calls that all workers can make at a time.", sum(p.threads for p in processes)
    )
    yield single("gemini_requests_in_flight", "Deliveries that workers are at now.", flight)
    unsettled = sum(process.unsettled for process in processes)
    yield single("gemini_deliveries_unsettled", "Deliveries that workers have and have not settled.", unsettled)


def _has(states: Counter[tuple[str, str]], state: str) -> bool:
    return any(count for (name, _), count in states.items() if name == state)


def _state(seen: Seen) -> str:
    if not seen.lives:
        return "gone"
    return "ready" if seen.process.not_ready is None else "not_ready"


def _queues(state: State) -> Iterator[GaugeMetricFamily]:
    there = [(queue, [queue.name, queue.role.replace(" ", "_")]) for queue in state.queues or ()]
    labels = ["queue", "role"]
    rows = [(names, queue.messages) for queue, names in there if queue.messages is not None]
    yield gauge("gemini_queue_messages", "Messages ready in a queue.", labels, rows)
    rows = [(names, queue.consumers) for queue, names in there if queue.consumers is not None]
    yield gauge("gemini_queue_consumers", "Consumers of a queue.", labels, rows)


def _waits(waits: Sequence[Waiting]) -> Iterator[GaugeMetricFamily]:
    codes = Counter(wait.code for wait in waits)
    text = "Waiting requests of which details are known, a thousand at most, by what they wait for."
    yield gauge("gemini_waits_known", text, ["error_code"], [([code], count) for code, count in codes.items()])
    dues = [wait.due_in_s for wait in waits] or [0.0]
    yield single("gemini_wait_next_due_seconds", "Until the next known wait ends; 0 without one.", min(dues))
    yield single("gemini_wait_last_due_seconds", "Until the last known wait ends; 0 without one.", max(dues))


def _keys(keys: Mapping[str, Finding]) -> Iterator[GaugeMetricFamily]:
    states = Counter(dict.fromkeys(KEY_STATES, 0))
    states.update(key.state.replace(" ", "_") for key in keys.values())
    rows = [([state], count) for state, count in states.items()]
    yield gauge("gemini_keys", "Keys by state.", ["state"], rows)
    ready = [([name], key.back_in_s) for name, key in keys.items()]
    yield gauge("gemini_key_ready_in_seconds", "Until a key may be used; 0: now.", ["key"], ready)
    used = [([name], key.used) for name, key in keys.items()]
    yield gauge("gemini_key_window_calls", "Calls of a key in its window.", ["key"], used)
    limits = {key.limit for key in keys.values()}
    yield single("gemini_key_window_limit", "Calls that a key may make in a window.", max(limits, default=0))
    flights = [([name], key.in_flight) for name, key in keys.items()]
    yield gauge("gemini_key_in_flight", "Calls that are made with a key now.", ["key"], flights)
