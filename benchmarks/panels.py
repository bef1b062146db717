"""What the picture shows: its panels, and their figures as words. Standard library only: plot.py runs beside peers."""

import json
from collections.abc import Iterator
from pathlib import Path

#: File, figure, title, form of the figures.
PANELS = (
    ("throughput", "requests/s", "requests a second", "%.0f"),
    ("overhead", "p50 ms at 100/s", "added to a call at 100/s, median, ms", "%.1f"),
    ("overhead", "p99 ms at 100/s", "added to a call at 100/s, p99, ms", "%.1f"),
    ("inflight", "wall / ideal", "1,000 calls of 2 s at a time, time / 2 s", "%.2f"),
)


def bars(folder: Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Title, form of the figures and figures by contender, of each panel."""
    for file, name, title, form in PANELS:
        medians = json.loads((folder / f"{file}.json").read_text())["medians"]
        yield title, form, {contender: figures[name] for contender, figures in medians.items()}


def described(folder: Path) -> str:
    """The picture in words; it is in the picture, and so tells whether that is of the same figures."""
    return "; ".join(f"{title}: {_listed(form, values)}" for title, form, values in bars(folder))


def _listed(form: str, values: dict[str, float]) -> str:
    return ", ".join(f"{contender} {form % value}" for contender, value in values.items())
