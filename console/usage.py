"""`gemini usage`: calls, tokens and cost, by key, model, error or outcome."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from console.figures import Figures, by_name, total
from console.opened import opened
from console.screen import Json, dollars, headline, number, print_json, screen, table
from gateway.secrets import ApiKey
from gateway.usage.store import Cell, span_for

UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class By(StrEnum):
    """What there are lines of."""

    KEY = "key"
    MODEL = "model"
    ERROR = "error"
    OUTCOME = "outcome"


def seconds(text: str | float) -> float:
    """`30m`, `24h`, `7d`, `2w` as seconds."""
    found = re.fullmatch(r"(\d{1,6})([mhdw])", str(text).strip())
    if found is None:
        raise typer.BadParameter("give a number and m, h, d or w, as in 24h or 7d")
    return float(found[1]) * UNITS_S[found[2]]


def usage(
    *,
    by: Annotated[By, typer.Option("--by", help="What there are lines of.")] = By.MODEL,
    since: Annotated[
        float, typer.Option("--since", parser=seconds, metavar="TIME", help="How far back: 24h, 7d, 90d at most.")
    ] = "24h",  # type: ignore[assignment]
    json_wanted: Json = False,
) -> None:
    """Calls, tokens and cost of the last time, in whole hours or days, UTC.

    What workers have reported: for operators, and no bill.
    """
    with opened() as here:
        cells = here.stores.usage.cells(span_for(since), by, since)
        names = _names(here.settings.keys) if by is By.KEY else {}
    figures = by_name(cells)
    started = datetime.fromtimestamp(min((cell.since for cell in cells), default=0), UTC) if cells else None
    if json_wanted:
        lines = [{"name": names.get(name, name), **one.as_json()} for name, one in _sorted(figures)]
        first = started.isoformat().replace("+00:00", "Z") if started else None
        print_json({"by": by, "from": first, by: lines, "total": total(cells).as_json()})
    elif started is None:
        print("Nothing was reported in that time.")
    else:
        _draw(by, figures, names, started, cells)


def _draw(
    by: By, figures: Mapping[str, Figures], names: Mapping[str, str], started: datetime, cells: Sequence[Cell]
) -> None:
    out = screen()
    out.print(headline(f"By {by}", f"from {started:%Y-%m-%d %H:%M} UTC"))
    rows = [(names.get(name, name), *_row(one)) for name, one in _sorted(figures)]
    if len(rows) > 1 and by in {By.KEY, By.MODEL}:  # a request can come out more than once: scheduled, then answered
        rows.append(("all", *_row(total(cells))))
    columns = (str(by), "requests", "calls", "failed", "tokens in", "tokens out", "cost")
    out.print(table(columns, rows, right=columns[1:]))


def _row(one: Figures) -> tuple[str, ...]:
    numbers = (one.requests, one.calls, one.failed, one.prompt_tokens, one.completion_tokens)
    return (*(number(value) if value else "" for value in numbers), dollars(one.cost) if one.cost else "")


def _sorted(figures: Mapping[str, Figures]) -> list[tuple[str, Figures]]:
    return sorted(figures.items(), key=lambda row: (-row[1].cost, -row[1].calls, -row[1].requests, row[0]))


def _names(keys: Sequence[ApiKey]) -> dict[str, str]:
    """What people call the keys that reports know by their digest; one that is no longer set keeps that."""
    return {key.digest: f"{key} ({key.label})" if key.label else str(key) for key in keys}
