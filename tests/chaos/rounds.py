"""`script/chaos rounds`: seeded rounds of faults, a line for each, and a table of what was found."""

import argparse
import tempfile
import traceback
from pathlib import Path

from fake_openrouter.client import FakeClient
from tests.chaos.checker import Verdict
from tests.chaos.faults import FAULTS
from tests.chaos.ground import ground
from tests.chaos.node import ChaosNode
from tests.chaos.round import Plan, Result, play

HEADER = (
    "seed    requests  envelopes  pieces  copies  calls  repeated  restarts  gap s  seconds  result  faults injected"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count on from there")
    parser.add_argument("--rounds", type=int, default=5, help="how many; 5 unless told otherwise")
    parser.add_argument("--only", action="append", choices=names, metavar="FAULT", help=f"one of: {', '.join(names)}")


def run(options: argparse.Namespace) -> int:
    """Play the rounds; the exit code is 0 when all have passed."""
    known = {fault.__name__: fault for fault in FAULTS}
    chosen = tuple(known[name] for name in options.only) if options.only else FAULTS
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"Logs and journals: {folder}", HEADER, sep="\n", flush=True)
    failed = []
    with ground(folder) as (node, fake):
        for seed in range(options.seed, options.seed + options.rounds):
            result = _attempt(Plan.of(seed, chosen), node, fake, folder / f"seed-{seed}")
            print(_line(result), flush=True)
            if result.verdict.faults:
                failed.append(seed)
    if failed:
        only = "".join(f" --only {name}" for name in options.only or ())
        again = "\n".join(f"  script/chaos rounds --seed {seed} --rounds 1{only}" for seed in failed)
        print(f"{len(failed)} of {options.rounds} rounds failed. To play them again:\n{again}")
        return 1
    print(f"All {options.rounds} rounds passed: nothing lost, nothing unexpected, queues empty, no secret seen.")
    return 0


def _attempt(plan: Plan, node: ChaosNode, fake: FakeClient, folder: Path) -> Result:
    """Play a round; a harness that breaks is a failed round, and the next one finds a server that runs."""
    try:
        return play(plan, node, fake, folder)
    except Exception:  # noqa: BLE001 - one line for each round, whatever happens
        node.kill()
        node.start()
        return Result(plan, Verdict(faults=[traceback.format_exc(limit=-3)]), 0.0, folder)


def _line(result: Result) -> str:
    """A row of the table, and below it what was found wrong."""
    verdict = result.verdict
    numbers = (
        f"{result.plan.seed:<8}{verdict.requests:>8}{verdict.envelopes:>11}{verdict.pieces:>8}{verdict.copies:>8}{verdict.calls:>7}"
        f"{verdict.repeated_calls:>10}{verdict.crashes:>10}{verdict.gap_s:>7.1f}{result.seconds:>9.0f}"
    )
    rows = [f"{numbers}  {'FAILED' if verdict.faults else 'passed':<6}  {result.plan}"]
    return "\n".join([*rows, *(f"    {fault}" for fault in verdict.faults)])
