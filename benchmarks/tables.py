"""Tables of Markdown, and how a figure is shown in all of them."""

import math
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.results import Row

Figures = Mapping[str, float | None]


def shown(value: float | str | None) -> str:
    """Three digits or the whole number; a count as it is."""
    if value is None or isinstance(value, str):
        return value or "–"
    if math.isinf(value):
        return "never"
    if isinstance(value, int) or value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    if value and abs(value) < 0.1:  # noqa: PLR2004
        return f"{value:.2g}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def markdown(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is what the row is about."""
    columns = list(header)
    return "\n".join([_line(columns), "|---" * len(columns) + "|", *(_line(row) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def of_rows(rows: Sequence[Row]) -> str:
    """A table of what was measured row by row."""
    return markdown(rows[0], [[shown(value) for value in row.values()] for row in rows])


def of_contenders(medians: Mapping[str, Figures]) -> str:
    """A column for each contender: its figures, and in brackets their ratio to those of the first, which is ours."""
    ours = next(iter(medians.values()))
    rows = [[name, *(_compared(one[name], ours[name]) for one in medians.values())] for name in ours]
    return markdown(["", *medians], rows)


def _compared(value: float | None, ours: float | None) -> str:
    if value is None or math.isinf(value):
        return "never"
    return shown(value) if value is ours or not ours else f"{shown(value)} (× {value / ours:.2f})"
