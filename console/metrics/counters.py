"""What has happened since midnight UTC, as metrics: requests, calls, tokens, cost, how long it took."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from console.figures import Figures
from console.metrics.today import Today
from gateway.errors import ErrorCode
from gateway.usage.store import BUCKETS_S, bucket
from middleware.attempt import Outcome
from middleware.usage import REJECTED

Value = Callable[[Figures], float]

OUTCOMES = (*Outcome, REJECTED)

#: Counters of each model, and of each key: `gemini_<name>_total`, `gemini_key_<name>_total`.
OF_CALLS: tuple[tuple[str, str, Value], ...] = (
    ("calls", "Calls to the provider", lambda one: one.calls),
    ("failed_calls", "Calls to the provider without a completion", lambda one: one.failed),
    ("prompt_tokens", "Tokens of prompts", lambda one: one.prompt_tokens),
    ("completion_tokens", "Tokens of answers", lambda one: one.completion_tokens),
    ("cost_dollars", "Cost of calls in US dollars, as far as the provider says it", lambda one: one.cost),
)


def counters(today: Today, key_names: Mapping[str, str]) -> Iterator[Metric]:
    """Everything of today. What can be counted is there from the first, as 0: an increase needs something before it."""
    outcomes, errors = _with_all(OUTCOMES, today.outcomes), _with_all(ErrorCode, today.errors)
    text = "Ends of deliveries: what RabbitMQ has confirmed of a request. One that waits is scheduled each time."
    yield _counter("gemini_request_outcomes", text, "outcome", outcomes, lambda one: one.requests)
    text = "Error envelopes by their error_code."
    yield _counter("gemini_request_errors", text, "error_code", errors, lambda one: one.requests)
    text = "Calls to the provider without a completion, by why."
    yield _counter("gemini_call_errors", text, "error_code", errors, lambda one: one.calls)
    keys = {name: today.keys.get(digest, Figures()) for digest, name in key_names.items()}
    for name, what, value in OF_CALLS:
        yield _counter(f"gemini_{name}", f"{what}, by model.", "model", today.models, value)
        yield _counter(f"gemini_key_{name}", f"{what}, by key.", "key", keys, value)
    text = "From the receipt of a request to an outcome, waits included."
    yield _histogram("gemini_request_duration_seconds", text, "outcome", outcomes)
    yield _histogram("gemini_call_duration_seconds", "Calls to the provider.", "model", today.models)


def _with_all(names: Iterable[str], figures: Mapping[str, Figures]) -> Mapping[str, Figures]:
    return {**{str(name): Figures() for name in names}, **figures}


def _counter(name: str, text: str, label: str, figures: Mapping[str, Figures], value: Value) -> CounterMetricFamily:
    made = CounterMetricFamily(name, text, labels=[label])
    for labelled, one in figures.items():
        made.add_metric([labelled], value(one))
    return made


def _histogram(name: str, text: str, label: str, figures: Mapping[str, Figures]) -> HistogramMetricFamily:
    made = HistogramMetricFamily(name, text, labels=[label])
    for labelled, one in figures.items():
        made.add_metric([labelled], _buckets(one), one.spent_ms / 1000)
    return made


def _buckets(one: Figures) -> list[tuple[str, float]]:
    """Upper ends with how many took no longer, the last one for all."""
    ends = (*BUCKETS_S, math.inf)
    reached = accumulate(one.latencies.get(bucket(end), 0) for end in ends)
    return list(zip(map(floatToGoString, ends), reached, strict=True))
