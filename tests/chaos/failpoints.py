"""`script/chaos failpoints`: the failpoint matrix, a line for each cell as it ends, then the table."""

import argparse
import tempfile
from pathlib import Path

from tests.chaos.ground import ground
from tests.chaos.lanes import play_all
from tests.chaos.matrix import Case, Cell, cases, table

#: How many cases run side by side.
LANES = 4

HEADER = f"{'the process ends at':<52}{'seconds':>8}{'crashes':>9}{'calls':>7}{'copies':>8}  result"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", metavar="NAME", help="the cells with this in their name; all, unless told otherwise")


def run(options: argparse.Namespace) -> int:
    """Play the matrix; the exit code is 0 when every cell is as promised."""
    chosen = [case for case in cases() if options.case is None or _is_meant(case, options.case)]
    if not chosen:
        print(f"No cell has {options.case!r} in its name. They are:", *(case.name for case in cases()), sep="\n  ")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"Logs and journals: {folder}", HEADER, sep="\n", flush=True)
    with ground(folder) as (node, fake):
        cells = play_all(chosen, node, fake, folder, lanes=LANES, tell=lambda cell: print(_line(cell), flush=True))
    print(f"\n{table(cells)}\n\nA cell of the table: how many crashes there were, and what they cost.")
    failed = [cell.case.name for cell in cells if cell.faults]
    if failed:
        again = "\n".join(f'  script/chaos failpoints --case "{name}"' for name in failed)
        print(f"{len(failed)} of {len(cells)} cells failed. To play them again:\n{again}")
        return 1
    print(f"All {len(cells)} cells passed.")
    return 0


def _is_meant(case: Case, name: str) -> bool:
    """A whole name means that cell and no other."""
    return case.name == name if name in {one.name for one in cases()} else name in case.name


def _line(cell: Cell) -> str:
    """A row, and below it what was found wrong."""
    row = (
        f"{cell.case.name:<52}{cell.seconds:>8.0f}{cell.crashes:>9}{cell.calls:>7}{cell.copies:>8}"
        f"  {'FAILED' if cell.faults else 'passed'}"
    )
    return "\n".join([row, *(f"    {fault}" for fault in cell.faults)])
