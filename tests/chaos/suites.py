"""The other long suites, which pytest plays, and all suites in a row."""

import subprocess
import sys
import time
from collections.abc import Sequence

#: Suites of pytest by name, with what they show and which tests they are.
SUITES: dict[str, tuple[str, Sequence[str]]] = {
    "fuzz": ("hostile bodies in bulk", ("tests/long/test_fuzz.py",)),
    "hammer": ("many processes on one store", ("tests/long/test_hammer.py",)),
    "bursts": ("bursts, backlogs and outages in real time", ("tests/long/test_bursts.py",)),
    "limits": ("every recorded answer of a provider, to a running worker", ("tests/long/test_limits.py",)),
    "outages": (
        "stores and RabbitMQ that are away, silent or full",
        ("tests/long/test_outages.py", "tests/long/test_stores.py"),
    ),
    "health": ("what probes say while servers are away, and of a process that hangs", ("tests/long/test_health.py",)),
    "bystanders": ("trouble of others: who is held up by it, and for how long", ("tests/long/test_bystanders.py",)),
    "lanes": ("a batch, and one who waits for an answer", ("tests/long/test_lanes.py",)),
    "overload": ("more requests than the keys allow, for minutes", ("tests/long/test_overload.py",)),
    "crashes": ("a worker that is killed again and again", ("tests/long/test_crash_loop.py",)),
    "kills": ("a worker that is killed with every thread in a call", ("tests/long/test_kills.py",)),
    "examples": ("clients in other languages, where those are installed", ("tests/long/test_examples.py",)),
    "speed": ("what must not cost more, as ratios", ("tests/long/test_speed.py",)),
    "page": ("the page for operators, in a real Chromium", ("tests/long/test_page.py",)),
    "properties": (
        "property tests with thousands of examples, other ones each time",
        (
            "--hypothesis-profile=bulk",
            "--timeout=1800",
            "tests/test_ledger_property.py",
            "tests/test_pool_property.py",
            "tests/test_gate.py",
        ),
    ),
}


def run(name: str) -> int:
    """Play one suite of pytest; its exit code."""
    return _call([sys.executable, "-m", "pytest", "-m", "long or not long", "-v", *SUITES[name][1]])


def run_all(rounds: Sequence[str]) -> int:
    """Play every suite, whatever became of the one before; 0 when all have passed. `rounds`: options of the rounds."""
    ended = []
    for name, *options in (("rounds", *rounds), ("failpoints",), *((name,) for name in SUITES)):
        print(f"== script/chaos {' '.join([name, *options])}", flush=True)
        started = time.monotonic()
        code = _call([sys.executable, "-m", "tests.chaos", name, *options])
        ended.append((name, time.monotonic() - started, code))
    print(f"\n{'suite':<12}{'seconds':>8}{'exit code':>11}")
    for name, seconds, code in ended:
        print(f"{name:<12}{seconds:>8.0f}{code:>11}")
    return int(any(code for _name, _seconds, code in ended))


def _call(command: Sequence[str]) -> int:
    """Run a command to its end. Ctrl-C reaches it as well, and ends both."""
    return subprocess.run(command, check=False).returncode
