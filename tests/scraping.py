"""A state with some of everything, and what `/metrics` says of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from console.metrics.routes import routes
from console.opened import Opened
from console.state import QueueState, State, build
from gateway.resources import open_stores
from gateway.secrets import ApiKey
from gateway.settings import load_settings
from gateway.stores.state_file import StateFile
from gateway.usage.sqlite import SqliteUsageStore
from gateway.usage.store import (
    CALLS,
    COST_NANO,
    ERROR,
    FAILED,
    KEY,
    MODEL,
    OUTCOME,
    PROMPT_TOKENS,
    REQUESTS,
    SPENT_MS,
    Batch,
    Count,
    Process,
    Waiting,
    bucket,
)
from tests.clock import Clock

#: Two end in the same way; the third is a canary.
KEYS = ("sk-or-v1-first-1111", "sk-or-v1-second-1111", "sk-or-v1-canary-2222")
PROCESS = Process("p", "host-1", 7, "1.2", 0.0, 50, 3, 4, None)
WAITING = Waiting("d", "request-canary", "gemini.generate.delay.60s", 30.0, "rate_limit", "why", "m", 1)

#: A midnight UTC, as epoch seconds.
MIDNIGHT = 1_795_651_200.0

Samples = dict[tuple[str, tuple[str, ...]], float]


@contextmanager
def reported_by(clock: Clock, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Settings, and stores whose reports have a clock of their own; no RabbitMQ."""
    monkeypatch.setenv("STATE_PATH", str(folder / "state.sqlite3"))
    monkeypatch.setenv("OPENROUTER_API_KEYS", ",".join(KEYS))
    monkeypatch.setenv("RABBITMQ_URL", "amqp://guest:password-canary@127.0.0.1:1/")
    monkeypatch.setattr("console.opened.CONNECT_DEADLINE_S", 0.01)
    settings = load_settings()
    stores = open_stores(settings)
    file = StateFile(settings.state_path)
    try:
        yield Opened(settings, replace(stores, usage=SqliteUsageStore(file, clock=clock)))
    finally:
        file.close()
        stores.close()


def look(here: Opened) -> State:
    """The state, with queues as RabbitMQ would have them; one is missing."""
    queues = [QueueState("gemini.requests", "requests", 3, 1), QueueState("gemini.generate.dead", "dead", None, None)]
    return replace(build(here), queues=queues)


def scraped(here: Opened, look: Callable[[Opened], State] = look) -> str:
    return scrape(client(lambda: here, look))


def client(source: Callable[[], Opened], look: Callable[[Opened], State] = look) -> TestClient:
    return TestClient(Starlette(routes=routes(source, look)))


def scrape(client: TestClient) -> str:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return answer.text


def samples(text: str) -> Samples:
    """Each sample by its name and the values of its labels. Fails for one that is there twice, as Prometheus does."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name, tuple(sample.labels.values())
            assert name not in found, name
            found[name] = sample.value
    return found


def report(here: Opened, number: int, *counts: tuple[str, str, dict[str, int]], **batch: object) -> None:
    made = {Count(about, name, fact): value for about, name, facts in counts for fact, value in facts.items()}
    here.stores.usage.report(PROCESS, Batch(number, made, **batch))  # type: ignore[arg-type]


def a_day(here: Opened) -> None:
    """Some of everything."""
    spent = {CALLS: 3, FAILED: 1, PROMPT_TOKENS: 40, COST_NANO: 2_500_000_000}
    latencies = {bucket(0.2): 1, bucket(7.0): 1, bucket(1000.0): 1, SPENT_MS: 1_007_200}
    report(
        here,
        1,
        (MODEL, "vendor/model", spent | latencies),
        (KEY, ApiKey(KEYS[0]).digest, spent),
        (KEY, ApiKey("sk-or-v1-of-yesterday").digest, spent),
        (OUTCOME, "answered", {REQUESTS: 2, bucket(0.2): 2, SPENT_MS: 400}),
        (ERROR, "upstream", {REQUESTS: 1, CALLS: 1}),
        waits=[WAITING],
    )
