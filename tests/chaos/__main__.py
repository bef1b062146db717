"""`script/chaos`: the long suites. They take minutes, and show what no quick test can.

    script/chaos [rounds] [--seed N] [--rounds N] [--only FAULT]   rounds of random faults; five unless told otherwise
    script/chaos failpoints [--case NAME]                          a process ends at each step: every cell of the matrix
    script/chaos NAME                                              one of the suites of pytest; they are named below
    script/chaos all [--seed N] [--rounds N]                       everything, one after the other

Each prints a line a step, and how to play a failure again.
"""

import argparse
import sys
from collections.abc import Sequence

from tests.chaos import failpoints, rounds, suites


def main(arguments: Sequence[str]) -> int:
    # Without a name, or with options only, it is rounds.
    wants_help = bool(arguments) and arguments[0] in {"-h", "--help"}
    named = wants_help or (bool(arguments) and not arguments[0].startswith("-"))
    options = _parser().parse_args(arguments if named else ["rounds", *arguments])
    if options.suite == "rounds":
        return rounds.run(options)
    if options.suite == "failpoints":
        return failpoints.run(options)
    if options.suite == "all":
        return suites.run_all([f"--seed={options.seed}", f"--rounds={options.rounds}"])
    return suites.run(options.suite)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = parser.add_subparsers(dest="suite", metavar="SUITE", required=True)
    rounds.add_options(named.add_parser("rounds", help="rounds of random faults"))
    failpoints.add_options(named.add_parser("failpoints", help="the failpoint matrix"))
    for name, (shows, _tests) in suites.SUITES.items():
        named.add_parser(name, help=shows)
    rounds.add_options(named.add_parser("all", help="every suite"))
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
