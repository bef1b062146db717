"""Writes what was measured into the pages: `python -m benchmarks.pages`; with `--check` it only says what differs.

A page has `<!-- measured: name -->` where a table begins and `<!-- end -->` where it ends. What stands between is
written from `published/name.json`; all else is prose, which names no figure that no table has.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.growth import growth
from benchmarks.results import PUBLISHED, ROOT, load
from benchmarks.tables import of_contenders, of_rows
from benchmarks.verdict import kept, verdict

PAGES = ("docs/performance.md", "docs/scaling.md")

BLOCK = re.compile(r"(?<=<!-- measured: )(\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)

#: Rows of a table; and what of prose is no figure: rows, commands, names in backticks, where links lead.
ROW = re.compile(r"^\|.*", re.MULTILINE)
NO_FIGURE = re.compile(r"^\|.*?$|^```.*?^```|`[^`]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)


def _growth() -> str:
    (worker,) = load(PUBLISHED, "connections")["rows"]
    return growth(kept(PUBLISHED)["throughput"], load(PUBLISHED, "requests")["rows"], worker)


#: Tables that are worked out of what was measured.
DERIVED: dict[str, Callable[[], str]] = {"verdict": lambda: verdict(kept(PUBLISHED)), "growth": _growth}


def table(name: str) -> str:
    """The table of this name, and when and on what it was measured."""
    if name in DERIVED:
        return DERIVED[name]()
    found = load(PUBLISHED, name)
    rows = of_contenders(found["medians"]) if "medians" in found else of_rows(found["rows"])
    return f"{rows}\n\n{_measured(found)}"


def _measured(found: dict[str, Any]) -> str:
    facts = [found["at"][:10], f"{found['cores']} cores"]
    if found["load"] is not None:
        facts.append(f"load {found['load']:.1f}")
    if "threads" in found:
        facts.append(f"{found['processes']} processes of {found['threads']} threads")
    if "rounds" in found:
        facts.append("one round" if found["rounds"] == 1 else f"medians of {found['rounds']} rounds")
    return f"<sub>{', '.join([*facts, *found.get('notes', [])])}</sub>"


def filled(page: str) -> str:
    """The page with the tables of today."""
    return BLOCK.sub(lambda found: f"{found[1]}{found[2]}{table(found[1])}\n", page)


def loose_figures(page: str) -> set[str]:
    """Numbers in the prose of a page that stand in none of its tables."""
    measured = [found[0] for found in BLOCK.finditer(page)]
    return numbers(NO_FIGURE.sub("", BLOCK.sub("", page))) - numbers("\n".join([*measured, *ROW.findall(page)]))


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def write() -> None:
    """Bring the pages up to what is published."""
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


def stale() -> list[str]:
    """The pages whose tables are not what is published."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    return [name for name, text in texts.items() if filled(text) != text]


def main() -> int:
    if "--check" not in sys.argv[1:]:
        write()
    elif found := stale():
        print(f"{', '.join(found)}: not what is published. Run script/bench pages", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
