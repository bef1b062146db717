"""Figures that stay true: pages and picture say what is published, prose has no figure of its own."""

import math
import re

import pytest

from benchmarks.growth import growth
from benchmarks.pages import PAGES, filled, loose_figures, stale
from benchmarks.panels import described
from benchmarks.results import PUBLISHED, ROOT
from benchmarks.tables import of_contenders, of_rows, shown
from benchmarks.verdict import PROMISES, verdict

THROUGHPUT = {"this project": {"requests/s": 1000.0}, "plain asyncio": {"requests/s": 2000.0}}
PARKED = {"this project": {"s late": 0.0149}, "Celery": {"s late": None}}


def test_the_tables_of_the_pages_are_what_is_published():
    """After a change to either: `script/bench pages`."""
    assert stale() == []


@pytest.mark.parametrize("name", PAGES)
def test_prose_has_no_figure_that_no_table_has(name: str):
    """A figure that nobody measures again is wrong one day."""
    assert loose_figures((ROOT / name).read_text()) == set()


def test_the_picture_is_of_the_figures_that_are_published():
    """It says so itself; after a change: `script/bench --plot`."""
    (told,) = re.findall(r"<dc:description>(.*)</dc:description>", (ROOT / "docs" / "performance.svg").read_text())
    assert told == described(PUBLISHED)


def test_a_table_of_another_day_is_found_out_and_written_anew():
    """Prose around it stays as it is."""
    page = (ROOT / PAGES[0]).read_text()
    other = page.replace("| requests/s |", "| requests/s, of before |")
    assert other != page
    assert filled(other) == page


def test_a_figure_in_prose_is_found_out():
    """Names in backticks, commands and links are no prose; tables that people write count as tables."""
    page = "It does 42 a second, of 17.\n\n| | a |\n|---|---|\n| x | 17 |\n\n`A=5` [p](a/6.md)\n```sh\nrun 7\n```\n"
    assert loose_figures(page) == {"42"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1859.4, "1,859"),
        (100, "100"),
        (29.17, "29.2"),
        (0.734, "0.73"),
        (0.0123, "0.012"),
        (8, "8"),
        (None, "–"),
        (0.0, "0.00"),
    ],
)
def test_a_figure_has_three_digits_or_is_a_whole_number(value: float | None, text: str):
    """What is more precise than the measurement would mislead."""
    assert shown(value) == text


def test_figures_of_peers_have_their_ratio_to_ours():
    """What never came has none."""
    assert of_contenders(THROUGHPUT).splitlines()[-1] == "| requests/s | 1,000 | 2,000 (× 2.00) |"
    assert of_contenders(PARKED).splitlines()[-1] == "| s late | 0.015 | never |"


def test_rows_become_a_table():
    """The names of the first row are its head."""
    rows = [{"keys": 10, "µs": 1.5}, {"keys": 1000, "µs": None}]
    assert of_rows(rows) == "| keys | µs |\n|---|---|\n| 10 | 1.50 |\n| 1,000 | – |"


@pytest.mark.parametrize(
    ("ours", "outcome"), [(2400.0, "goal"), (2000.0, "goal"), (1600.0, "must"), (1580.0, "**not reached**")]
)
def test_a_promise_is_judged_by_its_bounds(ours: float, outcome: str):
    """More is better here; equal is enough."""
    found = THROUGHPUT | {"this project": {"requests/s": ours}}
    (row,) = rows({"throughput": found}, "throughput / plain asyncio")
    assert row[-1] == outcome


def test_less_is_better_of_what_costs():
    """By the best of the peers that are named."""
    figures = {"this project": 3.0, "plain asyncio": 1.0, "stock Dramatiq": 4.0, "Celery": 5.0}
    found = {name: {"p99 ms at 100/s": value} for name, value in figures.items()}
    assert rows({"overhead": found}, "p99 at 100/s") == [
        ["0.75", "≤ 0.99", "", "must"],
        ["3.00", "", "≤ 0.99", "**not reached**"],
    ]


def test_what_was_not_measured_is_not_judged():
    """A scenario that was left out, and a peer that was."""
    judged = [promise.title for promise in PROMISES if promise.row({"throughput": THROUGHPUT})[1] != "not measured"]
    assert judged == ["throughput / plain asyncio"]
    assert len(verdict({}).splitlines()) == len(PROMISES) + 2


@pytest.mark.parametrize("never", [None, math.inf])
def test_what_never_came_is_not_reached(never: float | None):
    """As a run has it, and as a file has it."""
    (row,) = rows({"parked": {"this project": {"s late": never}}}, "100,000 parked: a short wait")
    assert row == ["never", "≤ 0.01", "≤ 0.01", "**not reached**"]


def test_growth_is_worked_out_of_what_one_request_takes():
    """A thousand keys are 167 requests a second: 334 calls in flight, for seven processes of fifty threads."""
    requests = [
        {"store": "Redis", "CPU µs each": 9.9, "at most a second": 101_010.1},
        {"store": "Redis", "CPU µs each": 300.0, "at most a second": 3333.3},
        {"store": "SQLite", "CPU µs each": 600.0, "at most a second": 1666.7},
        {"store": "SQLite", "CPU µs each": 9000.0, "at most a second": None},
    ]
    rabbitmq, worker = {"this project": {"RabbitMQ CPU ms/request": 0.5}}, {"connections a process": 2.0}
    told = growth(rabbitmq, requests, worker)
    assert "| 1,000 | 167 | 7 | 14 | 0.083 | 5.0 % | 10.0 % |" in told.splitlines()


def rows(medians: dict, title: str) -> list[list[str]]:
    """What is told of the promises whose title begins so."""
    return [promise.row(medians)[1:] for promise in PROMISES if promise.title.startswith(title)]
