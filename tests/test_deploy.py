"""What deploy/ and the compose file hold fits the code: no metric, queue or state that does not exist, no dead link."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from console.metrics.gauges import KEY_STATES, WORKER_STATES
from console.state import Role
from dev.launcher import ROOT
from gateway.errors import ErrorCode
from middleware.attempt import Outcome
from middleware.usage import REJECTED
from tests.clock import Clock
from tests.scraping import MIDNIGHT, a_day, reported_by, scraped

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
BOARD = ROOT / "deploy" / "grafana" / "gemini.json"

#: The values that a label can have, where these are few.
VALUES: dict[tuple[str, str], set[str]] = {
    ("gemini_worker_processes", "state"): set(WORKER_STATES),
    ("gemini_keys", "state"): set(KEY_STATES),
    ("gemini_queue_messages", "role"): {role.replace(" ", "_") for role in get_args(Role)},
    ("gemini_call_errors_total", "error_code"): set(ErrorCode),
    ("gemini_request_errors_total", "error_code"): set(ErrorCode),
    ("gemini_request_outcomes_total", "outcome"): {*Outcome, REJECTED},
    ("gemini_request_duration_seconds_bucket", "outcome"): {*Outcome, REJECTED},
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of each metric that there is."""
    with (
        pytest.MonkeyPatch.context() as patch,
        reported_by(Clock(MIDNIGHT + 1), tmp_path_factory.mktemp("told"), patch) as here,
    ):
        a_day(here)
        text = scraped(here)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found |= {family.name: set()} if not family.samples else {}
        found |= {sample.name: set(sample.labels) for sample in family.samples}
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def expressions() -> Iterator[str]:
    """Of rules and board."""
    yield from (rule["expr"] for rule in rules())
    for panel in json.loads(BOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_rules_and_board_ask_for_metrics_that_exist(told: dict[str, set[str]]):
    """A misspelt one shows nothing, and wakes nobody, for ever."""
    asked = {name for expression in expressions() for name in re.findall(r"gemini_\w+", expression)}
    assert len(asked) > 20
    assert asked <= told.keys()


def test_rules_and_board_ask_for_labels_that_exist(told: dict[str, set[str]]):
    """And for values that these can have."""
    asked = 0
    for expression in expressions():
        for name, matchers in re.findall(r"(gemini_\w+)\{([^}]*)\}", expression):
            for label, _, values in re.findall(r'(\w+)(!?=~?)"([^"]*)"', matchers):
                asked += 1
                assert label in told[name], expression
                assert set(values.split("|")) <= VALUES[name, label], expression
        for labels in re.findall(r"by \(([^)]*)\)", expression):
            names = re.findall(r"gemini_\w+", expression)
            assert {label.strip() for label in labels.split(",")} <= set().union(*(told[name] for name in names))
    assert asked > 10


def test_every_alert_has_a_section_that_says_what_to_do():
    """Its annotation leads there, and no section is about an alert that is gone."""
    page = (ROOT / "docs" / "operating.md").read_text()
    sections = set(re.findall(r"^### (Gemini\w+)$", page, re.MULTILINE))
    alerts = {rule["alert"]: rule["annotations"] for rule in rules()}
    assert sections == alerts.keys()
    for alert, annotations in alerts.items():
        assert annotations["runbook"] == f"docs/operating.md#{alert.lower()}"
        assert annotations["summary"].endswith(".")


def test_every_metric_is_in_the_docs(told: dict[str, set[str]]):
    """By its name, and none that there is not."""
    page = (ROOT / "docs" / "operating.md").read_text()
    documented = set(re.findall(r"`(gemini_\w+)", page))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in told if name.startswith("gemini_")}
    assert documented == families


def test_panels_do_not_overlap():
    """And each has a name and an id of its own."""
    panels = json.loads(BOARD.read_text())["panels"]
    places = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) == 23
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)


@pytest.fixture
def promtool() -> str:
    if (found := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def test_promtool_takes_the_rules_and_the_configuration(promtool: str):
    config = RULES.with_name("prometheus.yml")
    ran = subprocess.run([promtool, "check", "config", config], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path):
    """Not when all is well, nor at midnight, when every counter begins anew."""
    for file in (RULES, ROOT / "tests" / "samples" / "alerts_test.yml"):
        shutil.copy(file, tmp_path)
    ran = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
