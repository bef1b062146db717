"""`script/chaos`: rounds of faults against the real thing, a line for each, and a table of what was found."""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fake_openrouter.client import FakeClient, running
from tests.chaos.checker import Verdict
from tests.chaos.faults import FAULTS
from tests.chaos.node import ChaosNode
from tests.chaos.round import KEYS, PER_WINDOW, WINDOW_S, Plan, Result, play

HEADER = "seed    requests  envelopes  copies  calls  repeated  restarts  seconds  result  faults injected"


def main() -> int:
    options = _options()
    known = {fault.__name__: fault for fault in FAULTS}
    chosen = tuple(known[name] for name in options.only) if options.only else FAULTS
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"Logs and journals: {folder}", HEADER, sep="\n", flush=True)
    failed = []
    with ground(folder) as (node, fake):
        for seed in range(options.seed, options.seed + options.rounds):
            result = attempt(Plan.of(seed, chosen), node, fake, folder / f"seed-{seed}")
            print(line(result), flush=True)
            if result.verdict.faults:
                failed.append(seed)
    if failed:
        again = "\n".join(f"  script/chaos --seed {seed} --rounds 1" for seed in failed)
        print(f"{len(failed)} of {options.rounds} rounds failed. To run them again:\n{again}")
        return 1
    print(f"All {options.rounds} rounds passed: nothing lost, nothing unexpected, queues empty, no secret seen.")
    return 0


@contextmanager
def ground(folder: Path) -> Iterator[tuple[ChaosNode, FakeClient]]:
    """The server and the provider that all rounds share."""
    with ExitStack() as cleanup:
        fake = cleanup.enter_context(running(keys=KEYS, per_minute=PER_WINDOW, window=WINDOW_S))
        node = ChaosNode(folder / "rabbitmq")
        cleanup.callback(node.stop, keep=False)
        node.start_server()
        yield node, fake


def attempt(plan: Plan, node: ChaosNode, fake: FakeClient, folder: Path) -> Result:
    """Play a round; a harness that breaks is a failed round, and the next one finds a server that runs."""
    try:
        return play(plan, node, fake, folder)
    except Exception:  # noqa: BLE001 - one line for each round, whatever happens
        node.kill()
        node.start_server()
        return Result(plan, Verdict(faults=[traceback.format_exc(limit=-3)]), 0.0, folder)


def line(result: Result) -> str:
    """A row of the table, and below it what was found wrong."""
    verdict = result.verdict
    numbers = (
        f"{result.plan.seed:<8}{verdict.requests:>8}{verdict.envelopes:>11}{verdict.copies:>8}{verdict.calls:>7}"
        f"{verdict.repeated_calls:>10}{verdict.crashes:>10}{result.seconds:>9.0f}"
    )
    rows = [f"{numbers}  {'FAILED' if verdict.faults else 'passed':<6}  {result.plan}"]
    return "\n".join([*rows, *(f"    {fault}" for fault in verdict.faults)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count on from there")
    parser.add_argument("--rounds", type=int, default=5)
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument("--only", action="append", choices=names, help="a fault to choose from; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
