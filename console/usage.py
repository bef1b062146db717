"""`gemini usage`: calls, tokens and cost, by key, model or tag; what came out, by error or outcome."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, cast

import typer

from console.figures import Figures, by_name, total
from console.opened import Opened, opened
from console.paid import Name, Paid, paid_by, paid_in_all, row_as_json
from console.screen import Json, dollars, headline, number, print_json, screen, several, table
from gateway.costs.call import NANO
from gateway.costs.store import Sum
from gateway.costs.store import span_for as costs_for
from gateway.usage.store import Cell, span_for

UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class By(StrEnum):
    """What there are lines of."""

    KEY = "key"
    MODEL = "model"
    TAG = "tag"
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
    calls: Annotated[
        bool, typer.Option("--calls", help="Every paid call instead, a JSON object a line; kept for 7 days.")
    ] = False,
    json_wanted: Json = False,
) -> None:
    """Calls, tokens and cost of the last time, in whole hours or days, UTC.

    By key, model and tag: what was paid, booked together with each answer. By error and outcome: what workers have
    reported, for operators.
    """
    with opened() as here:
        if calls:
            rows = here.stores.costs.rows(since)
            names = _key_names(here, {call.key for _, call in rows})
            for at, call in rows:
                print_json(row_as_json(at, call, key=names[call.key]))
        elif by in {By.KEY, By.MODEL, By.TAG}:
            _paid(here, cast("Name", by.value), since, json_wanted=json_wanted)
        else:
            _reported(by, here.stores.usage.cells(span_for(since), by, since), json_wanted=json_wanted)


def _paid(here: Opened, by: Name, since: float, *, json_wanted: bool) -> None:
    sums = here.stores.costs.sums(costs_for(since), since)
    lines = _named(here, paid_by(sums, by), by)
    budget = _budget(here)
    if json_wanted:
        rows = [{"name": name, **one.as_json()} for name, one in lines]
        content = {"by": by, "from": _start(sums), by: rows, "total": paid_in_all(sums).as_json()}
        print_json(content | ({"budget": budget} if budget else {}))
    elif not sums:
        print("Nothing was paid for in that time.")
    else:
        _draw_paid(by, lines, paid_in_all(sums), _start(sums))
    if budget and not json_wanted:
        print(f"Today: {dollars(budget['spent'])} of {dollars(budget['limit'])} (BUDGET_USD_PER_DAY).")


def _budget(here: Opened) -> dict[str, float] | None:
    limit = here.settings.budget_usd_per_day
    return None if limit is None else {"limit": limit, "spent": here.stores.costs.today().cost_nano / NANO}


def _draw_paid(by: Name, lines: Sequence[tuple[str, Paid]], all_: Paid, start: str | None) -> None:
    out = screen()
    out.print(headline(f"By {by}", f"from {start}"))
    rows = [(name, *_cells(one)) for name, one in lines] + ([("all", *_cells(all_))] if len(lines) > 1 else [])
    columns = (by, "calls", "tokens in", "tokens out", "cost", "without a price", "cut off")
    out.print(table(columns, rows, right=columns[1:]))
    if all_.unpriced:
        print(f"Their provider does not say what {several(all_.unpriced, 'call')} cost: tokens only.")
    if all_.cut_off:
        print(f"{several(all_.cut_off, 'call')} cut off: the end was not seen, and what it may have cost is not known.")


def _cells(one: Paid) -> tuple[str, ...]:
    counts = (one.calls, one.prompt_tokens, one.completion_tokens)
    others = (number(count) if count else "" for count in (one.unpriced, one.cut_off))
    return (*(number(count) if count else "" for count in counts), dollars(one.cost) if one.cost else "", *others)


def _named(here: Opened, found: Mapping[str, Paid], by: Name) -> list[tuple[str, Paid]]:
    """The dearest first; keys by the names that people have for them, also those that are no longer set."""
    names = _key_names(here, found) if by == "key" else {name: name or "none" for name in found}
    rows = sorted(found.items(), key=lambda row: (-row[1].cost, -row[1].calls, row[0]))
    return [(names[name], one) for name, one in rows]


def _key_names(here: Opened, digests: Iterable[str]) -> dict[str, str]:
    """Of each digest what people call the key, else itself."""
    known = here.stores.costs.notes(f"key.{digest}" for digest in digests if digest)
    names = {name.removeprefix("key."): text for name, text in known.items()}
    names |= {key.digest: key.name for key in here.settings.keys}
    return {digest: names.get(digest, digest or "none") for digest in digests}


def _start(found: Sequence[Sum] | Sequence[Cell]) -> str | None:
    if not found:
        return None
    return datetime.fromtimestamp(min(one.since for one in found), UTC).isoformat().replace("+00:00", "Z")


def _reported(by: By, cells: Sequence[Cell], *, json_wanted: bool) -> None:
    lines = sorted(by_name(cells).items(), key=lambda row: (-row[1].calls, -row[1].requests, row[0]))
    if json_wanted:
        rows: list[dict[str, Any]] = [{"name": name, **one.as_json()} for name, one in lines]
        print_json({"by": by, "from": _start(cells), by: rows, "total": total(cells).as_json()})
    elif not cells:
        print("Nothing was reported in that time.")
    else:
        out = screen()
        out.print(headline(f"By {by}", f"from {_start(cells)}"))
        columns = (str(by), "requests", "calls")
        out.print(table(columns, [(name, *_counts(one)) for name, one in lines], right=columns[1:]))


def _counts(one: Figures) -> tuple[str, ...]:
    return tuple(number(value) if value else "" for value in (one.requests, one.calls))
