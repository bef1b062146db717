"""The other long suites, which pytest plays, and all suites in a row."""

import subprocess
import sys
import time
from collections.abc import Sequence

#: Suites of pytest, by name; each prints its seed and how to play a failure again.
FILES = {
    "fuzz": "tests/long/test_fuzz.py",
    "hammer": "tests/long/test_hammer.py",
    "bursts": "tests/long/test_bursts.py",
}


def run(name: str) -> int:
    """Play one suite of pytest; its exit code."""
    return _call([sys.executable, "-m", "pytest", "-m", "long", "-v", FILES[name]])


def run_all(rounds: Sequence[str]) -> int:
    """Play every suite, whatever became of the one before; 0 when all have passed. `rounds`: options of the rounds."""
    ended = []
    for name, *options in (("rounds", *rounds), ("failpoints",), *((name,) for name in FILES)):
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
