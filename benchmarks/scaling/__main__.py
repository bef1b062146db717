"""`script/bench scaling`: what ends first when keys, workers and requests grow by a hundred.

keys         64 simulated workers at one Redis, and at one SQLite file, with up to 10,000 keys
waits        up to 1,000,000 requests in the delay queues of a RabbitMQ of its own; takes a quarter of an hour
connections  what a worker process has open at RabbitMQ, and what RabbitMQ pays for it
status       what one look of `gemini status` costs
"""

import argparse
import os
from collections.abc import Callable
from functools import partial

from benchmarks import pages
from benchmarks.results import PUBLISHED, RESULTS, Row, keep
from benchmarks.scaling import connections, keys, status, waits
from benchmarks.tables import of_rows

PARTS: dict[str, Callable[[], dict[str, list[Row]]]] = {
    "keys": keys.measure,
    "waits": waits.measure,
    "connections": connections.measure,
    "status": status.measure,
}


def main() -> None:
    options = _options()
    parts = PARTS | {"waits": partial(waits.measure, options.waiting)}
    for part in options.part or parts:
        load = os.getloadavg()[0]  # of others: before it begins
        for name, rows in parts[part]().items():
            print(f"\n{name}\n{of_rows(rows)}", flush=True)
            for folder in (RESULTS, PUBLISHED) if options.publish else (RESULTS,):
                keep(folder, name, {"load": load, "rows": rows})
    if options.publish:
        pages.write()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="all of them if none is named")
    counts = "numbers of waiting requests, rising"
    parser.add_argument("--waiting", nargs="+", type=int, default=waits.COUNTS, metavar="N", help=counts)
    publish = "write the figures into benchmarks/published and docs/scaling.md"
    parser.add_argument("--publish", action="store_true", help=publish)
    return parser.parse_args()


if __name__ == "__main__":
    main()
