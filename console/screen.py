"""How commands print: tables for people, one JSON object for programs, complaints on stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Wide enough for every line where nobody looks, as in a pipe.
WIDTH_OF_A_PIPE = 240

Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]

#: The colours of states, wherever one is shown.
STYLES = {
    "ready": "green",
    "ok": "green",
    "window full": "yellow",
    "limited": "yellow",
    "warning": "yellow",
    "refused": "red",
    "invalid": "red",
    "gone": "red",
    "failed": "red",
}


def screen() -> Console:
    """Stdout; no text is taken for markup."""
    width = None if sys.stdout.isatty() else WIDTH_OF_A_PIPE
    return Console(width=width, highlight=False, markup=False, emoji=False)


def as_line(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def print_json(content: Any) -> None:
    """One line, so that output of several commands can be put together, and at once, for who reads along."""
    print(as_line(content), flush=True)


def tell(text: str) -> None:
    """A line that is no result: on stderr."""
    print(text, file=sys.stderr)


def give_up(text: str, code: int) -> NoReturn:
    """End with one line on stderr."""
    tell(text)
    raise typer.Exit(code)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()) -> Table:
    """Rows under their columns; a column that has no value anywhere is left out."""
    texts = [["-" if cell in (None, "") else str(cell) for cell in row] for row in rows]
    used = [number for number, name in enumerate(columns) if name and any(row[number] != "-" for row in texts)]
    lines = box.SIMPLE_HEAD if sys.stdout.isatty() else None
    made = Table(box=lines, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 1, 0, 0))
    for number in used:
        name = columns[number]
        is_long = name in {"why", "reason", "what"}
        made.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold" if is_long or name in {"id", "request"} else "ellipsis",
            no_wrap=not is_long and name not in {"id", "request"},
        )
    for row in texts:
        made.add_row(*(Text(row[number], style=STYLES.get(row[number], "")) for number in used))
    return made


def headline(text: str, remark: str = "") -> Text:
    return Text.assemble((text, "bold"), (f"  {remark}" if remark else "", "dim"))


def span(seconds: float) -> str:
    """As people say it: 45 s, 12 min, 3.5 h, 2 d."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - two digits tell enough


def dollars(amount: float | None) -> str:
    """With as many digits as a small amount needs."""
    if amount is None:
        return "-"
    digits = next(digits for least, digits in ((1.0, 2), (0.01, 4), (0.0, 6)) if amount >= least or amount <= 0)
    return f"${amount:.{digits}f}"


def number(value: int) -> str:
    return f"{value:,}"


def several(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("" if count == 1 else "s")


def told(counts: Mapping[str, int]) -> str:
    """`3 answered, 1 held`; the largest first."""
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    return ", ".join(f"{value:,} {name}" for name, value in rows)
