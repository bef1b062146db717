"""`gemini doctor`: settings, store, workers, RabbitMQ, provider; each finding with its remedy."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, cast

import typer
from rich.table import Table
from rich.text import Text

from console.doctor import provider, rabbitmq, workers
from console.doctor.finding import Finding, of_error, ok
from console.opened import Opened
from console.screen import Json, print_json, screen, several
from gateway import exits
from gateway.errors import StoreUnavailable
from gateway.resources import Stores, open_stores
from gateway.settings import Settings, SettingsError, load_settings

#: What is looked at, in this order, when settings and store can be used.
CHECKS: Sequence[Callable[[Opened], Iterator[Finding]]] = (
    workers.check_store,
    workers.check_workers,
    rabbitmq.check,
    provider.check,
)

SIGNS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "failed": ("x", "red bold"), "unknown": ("?", "dim")}


def doctor(*, json_wanted: Json = False) -> None:
    """Look for what is wrong: settings, store, workers, RabbitMQ, provider, keys, models; each with its remedy.

    Nothing is changed, no message taken, no call paid. Exit code 1 when something has failed.
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if not json_wanted:
            draw(finding)
    failed = sum(finding.level == "failed" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    if json_wanted:
        print_json({"failed": failed, "warnings": warnings, "findings": [finding.as_json() for finding in findings]})
    else:
        print(f"\n{several(failed, 'failure')}, {several(warnings, 'warning')}.")
    if failed:
        raise typer.Exit(exits.NOTHING)


def examine() -> Iterator[Finding]:
    """Every finding, as it comes."""
    settings: Settings | None = None
    try:
        settings = load_settings()
        yield ok("settings", "can be used")
    except SettingsError as error:
        yield from _bad_settings(error)
        settings = _without_keys()
    if settings is None:
        return
    told: set[tuple[str, str]] = set()
    stores = _stores(settings)
    try:
        for finding in chain.from_iterable(_guarded(check, Opened(settings, stores)) for check in CHECKS):
            if (finding.area, finding.what) not in told:
                yield finding
            told.add((finding.area, finding.what))
    finally:
        stores.close()


class _Away:
    """In place of stores that cannot be opened: what needs none of them is looked at all the same."""

    def __init__(self, trouble: str) -> None:
        self._trouble = trouble

    def __getattr__(self, _name: str) -> Any:
        raise StoreUnavailable(self._trouble)

    def close(self) -> None:
        """Nothing is open."""


def _stores(settings: Settings) -> Stores:
    try:
        return open_stores(settings)
    except StoreUnavailable as error:
        return cast("Stores", _Away(str(error)))


def _guarded(check: Callable[[Opened], Iterator[Finding]], here: Opened) -> Iterator[Finding]:
    """A store that is away ends one check, and not the others."""
    try:
        yield from check(here)
    except StoreUnavailable as error:
        yield of_error(workers.STORE, error)


def _bad_settings(error: SettingsError) -> Iterator[Finding]:
    for line in str(error).splitlines()[1:]:
        name, _, text = line.strip().partition(": ")
        what, _, remedy = text.rpartition(": ")
        yield Finding("settings", "failed", f"{name}: {what or 'cannot be used'}", remedy)


def _without_keys() -> Settings | None:
    """The settings, when nothing but keys is missing."""
    try:
        return load_settings(need_keys=False)
    except SettingsError:
        return None


def draw(finding: Finding) -> None:
    sign, style = SIGNS[finding.level]
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(Text(f"{sign:>2}", style), Text.assemble((f"{finding.area}: ", "bold"), finding.what))
    if finding.remedy is not None:
        grid.add_row("", Text(f"-> {finding.remedy}", style="cyan"))
    screen().print(grid)
