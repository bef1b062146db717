"""What `/metrics` says, as Prometheus reads it: names by convention, bounded labels, and no counter goes back."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from console.metrics import __main__ as server
from console.metrics.collector import key_names
from console.metrics.source import OpenedLater
from console.metrics.today import Names, today
from console.opened import Opened
from console.state import build
from gateway import exits
from gateway.errors import ErrorCode, StoreUnavailable
from gateway.secrets import ApiKey
from gateway.settings import load_settings
from gateway.usage.store import (
    CALLS,
    MODEL,
    OUTCOME,
    REQUESTS,
    Batch,
    Cell,
)
from middleware.attempt import Outcome
from tests.clock import Clock
from tests.scraping import KEYS, MIDNIGHT, PROCESS, a_day, client, report, reported_by, samples, scrape, scraped


@pytest.fixture
def clock() -> Clock:
    return Clock(MIDNIGHT + 3600)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Opened]:
    with reported_by(clock, tmp_path, monkeypatch) as made:
        yield made


def test_everything_that_is_counted_is_told(here: Opened):
    """By model, key, outcome and error code; costs in dollars, times in seconds."""
    a_day(here)
    found = samples(scraped(here))
    first, second, _ = key_names(here.settings.keys)
    expected = {
        ("gemini_calls_total", "vendor/model"): 3,
        ("gemini_failed_calls_total", "vendor/model"): 1,
        ("gemini_prompt_tokens_total", "vendor/model"): 40,
        ("gemini_cost_dollars_total", "vendor/model"): 2.5,
        ("gemini_key_calls_total", first): 3,
        ("gemini_key_calls_total", second): 0,
        ("gemini_request_outcomes_total", "answered"): 2,
        ("gemini_request_errors_total", "upstream"): 1,
        ("gemini_call_errors_total", "upstream"): 1,
        ("gemini_call_duration_seconds_count", "vendor/model"): 3,
        ("gemini_call_duration_seconds_sum", "vendor/model"): 1007.2,
        ("gemini_keys", "ready"): 3,
        ("gemini_waits_known", "rate_limit"): 1,
    }
    assert {name: found[name[0], name[1:]] for name in expected} == expected
    buckets = [one for one in found if one[0] == "gemini_call_duration_seconds_bucket" and one[1][1] == "vendor/model"]
    ends = {labels[0]: found[name, labels] for name, labels in buckets}
    assert (ends["0.1"], ends["0.25"], ends["5.0"], ends["10.0"], ends["300.0"], ends["+Inf"]) == (0, 1, 1, 2, 2, 3)


def test_what_is_now_is_told(here: Opened):
    """Workers, queues, waits; a queue that is missing has no depth."""
    a_day(here)
    found = samples(scraped(here))
    assert found["gemini_worker_processes", ("ready", "1.2")] == 1
    assert found["gemini_worker_processes", ("gone", "")] == 0
    assert (found["gemini_requests_in_flight", ()], found["gemini_deliveries_unsettled", ()]) == (3, 4)
    assert found["gemini_queue_messages", ("gemini.requests", "requests")] == 3
    assert ("gemini_queue_messages", ("gemini.generate.dead", "dead")) not in found
    assert 0 < found["gemini_wait_next_due_seconds", ()] <= 30
    assert (found["gemini_store_up", ()], found["gemini_rabbitmq_up", ()]) == (1, 1)


def test_a_worker_that_is_gone_or_not_ready_is_told(here: Opened, clock: Clock):
    here.stores.usage.report(replace(PROCESS, id="q", not_ready="it drains"), Batch())
    here.stores.usage.report(PROCESS, Batch())
    found = samples(scraped(here))
    assert found["gemini_worker_processes", ("not_ready", "1.2")] == 1
    clock.advance(60)
    found = samples(scraped(here))
    assert found["gemini_worker_processes", ("gone", "1.2")] == 2
    assert ("gemini_worker_report_age_seconds", ()) not in found


def test_what_has_not_happened_yet_is_0(here: Opened):
    """An increase needs a sample before it: the first error of a kind would be none."""
    found = samples(scraped(here))
    for code in ErrorCode:
        assert found["gemini_request_errors_total", (code,)] == found["gemini_call_errors_total", (code,)] == 0
    for outcome in Outcome:
        assert found["gemini_request_outcomes_total", (outcome,)] == 0
    assert [found["gemini_key_calls_total", (name,)] for name in key_names(here.settings.keys)] == [0, 0, 0]


def test_counters_grow_until_midnight_and_begin_anew(here: Opened, clock: Clock):
    """Never less in between, whatever leaves the last hour or the last ninety days."""
    scraper = client(lambda: here)
    seen = []
    for hour in range(30):
        report(here, hour + 1, (MODEL, "m", {CALLS: 2}), (OUTCOME, "answered", {REQUESTS: 1}))
        found = samples(scrape(scraper))
        seen.append((found["gemini_calls_total", ("m",)], found["gemini_request_outcomes_total", ("answered",)]))
        clock.advance(3600)
    day, night = seen[:23], seen[23:]
    assert day == [(2 * n, n) for n in range(1, 24)]
    assert night == [(2 * n, n) for n in range(1, 8)]


def test_models_have_bounded_labels_and_keep_them(here: Opened):
    """Producers choose their names. Who has come first keeps a counter of its own; the sum of all is exact."""
    names = Names(most=2)
    report(here, 1, (MODEL, "few", {CALLS: 1}), (MODEL, "many", {CALLS: 9}), (MODEL, "some", {CALLS: 5}))
    assert {name: one.calls for name, one in today(here.stores.usage, names).models.items()} == {
        "other": 1,
        "many": 9,
        "some": 5,
    }
    report(here, 2, (MODEL, "few", {CALLS: 90}), (MODEL, "other", {CALLS: 1}))
    found = {name: one.calls for name, one in today(here.stores.usage, names).models.items()}
    assert found == {"other": 92, "many": 9, "some": 5}


def test_keys_that_end_alike_have_different_names(here: Opened):
    """Of two samples with the same labels Prometheus refuses the whole scrape. None shows more than its end."""
    names = key_names(here.settings.keys)
    assert len(set(names)) == 3
    assert names[2] == "****2222"
    assert all(re.fullmatch(r"\*{4}1111-[0-9a-f]{6}", name) for name in names[:2])


def test_a_store_that_is_away_is_told(here: Opened):
    """With 200: a scrape that fails says less. It comes back by itself."""
    away = [True]

    def source() -> Opened:
        if away[0]:
            raise StoreUnavailable("The state file cannot be used")
        return here

    scraper = client(source)
    found = samples(scrape(scraper))
    assert (found["gemini_store_up", ()], found["gemini_store_errors_total", ()]) == (0, 1)
    assert not [name for name, _ in found if name.startswith("gemini_calls")]
    assert scraper.get("/readyz").status_code == 503
    assert scraper.get("/readyz").json()["trouble"] == "the store cannot be read"  # names no file, no server
    assert scraper.get("/healthz").status_code == 200
    away[0] = False
    found = samples(scrape(scraper))
    assert (found["gemini_store_up", ()], found["gemini_store_errors_total", ()]) == (1, 1)


def test_a_rabbitmq_that_is_away_is_told(here: Opened):
    """The rest is there."""
    a_day(here)
    found = samples(scraped(here, build))
    assert (found["gemini_rabbitmq_up", ()], found["gemini_calls_total", ("vendor/model",)]) == (0, 3)
    assert not [name for name, _ in found if name.startswith("gemini_queue")]


def test_ready_means_that_there_is_a_state_to_show(here: Opened):
    """Without a worker as well: that is what the page has to show then. How many there are is said."""
    asked = client(lambda: here)
    assert asked.get("/readyz").json() == {"ready": True, "workers": 0, "workers_ready": 0}
    here.stores.usage.report(PROCESS, Batch())
    assert asked.get("/readyz").json() == {"ready": True, "workers": 1, "workers_ready": 1}


def test_no_canary_is_in_the_metrics(here: Opened):
    """P4: no key, password, id of a request."""
    a_day(here)
    text = scraped(here)
    assert "canary" not in text
    assert not [key for key in KEYS if key[9:] in text]
    assert "****2222" in text


def test_openmetrics_is_spoken_to_who_asks_for_it(here: Opened):
    answer = client(lambda: here).get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_names_follow_the_conventions(here: Opened):
    """https://prometheus.io/docs/practices/naming: a prefix, base units, `_total` for counters and nothing else."""
    a_day(here)
    for family in text_string_to_metric_families(scraped(here)):
        if family.name.startswith("process_"):
            continue  # those of every program
        assert re.fullmatch(r"gemini(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        totals = {sample.name.endswith("_total") for sample in family.samples}
        assert totals == {family.type == "counter"}, family.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|percent|count|sum|gauge)(_|$)", family.name), family.name


def test_promtool_has_nothing_to_say(here: Opened):
    """Prometheus's own linter, where it is installed (Debian: `prometheus`)."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    a_day(here)
    ours = "\n".join(line for line in scraped(here).splitlines() if "process_" not in line) + "\n"
    ran = subprocess.run(["promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_a_thousand_keys_have_a_thousand_names():
    """Though their ends repeat."""
    keys = [ApiKey(f"sk-or-v1-{number:08}-{number % 10:04}") for number in range(1000)]
    assert len(set(key_names(keys))) == 1000


def test_names_are_bounded_whatever_is_reported():
    cells = [Cell(0, f"model-{number}", CALLS, number) for number in range(500)]
    assert len(Names(most=50).bounded(cells)) == 51


def test_a_store_that_is_away_at_the_start_is_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The server of metrics starts without it, and needs no start anew."""
    (tmp_path / "folder").touch()
    monkeypatch.setenv("STATE_PATH", str(tmp_path / "folder" / "state.sqlite3"))
    source = OpenedLater(load_settings(need_keys=False))
    asked = client(source)
    assert asked.get("/readyz").status_code == 503
    (tmp_path / "folder").unlink()
    assert asked.get("/readyz").status_code == 200
    assert source() is source()
    source.close()
    source.close()


def serve(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["metrics", *arguments])
    return server.main()


def test_the_server_of_metrics_says_why_it_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """In one line, with the exit code of its kind."""
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve(monkeypatch, "--port", str(taken.getsockname()[1])) == exits.UNAVAILABLE
    monkeypatch.setenv("STATE_PATH", ".")
    assert serve(monkeypatch, "--port", "0") == exits.SETTINGS
    said = capsys.readouterr().err
    assert ("cannot be listened on: Address already in use" in said, "STATE_PATH" in said) == (True, True)
