"""Starts the stand-in and drives it, from a test or a script."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import requests

from fake_openrouter.options import ENVIRONMENT_PREFIX

_ROOT = Path(__file__).resolve().parent.parent
_STOP_TIMEOUT_S = 10.0


class FakeClient:
    """Tells a running stand-in how to behave, and asks what it has seen. `base_url` has no path. Thread-safe."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def script(self, rules: Sequence[dict[str, Any]]) -> None:
        """Replace the rules; the fields are those of `fake_openrouter.script`. Raises ValueError for a wrong rule."""
        self._ask("POST", "/_fake/script", list(rules))

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls since the last reset, without the first `since`; each has the fields of `record.Call`."""
        return cast("list[dict[str, Any]]", self._ask("GET", f"/_fake/calls?since={since}"))

    def wait_for_calls(self, n: int, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """All calls, as soon as `n` have arrived since the last reset. Raises TimeoutError."""
        path = f"/_fake/calls?wait_for={n}&timeout={timeout_s}"
        calls = cast("list[dict[str, Any]]", self._ask("GET", path, timeout_s=timeout_s + 10))
        if len(calls) < n:
            raise TimeoutError(f"{len(calls)} of {n} calls came in {timeout_s:g} s")
        return calls

    def stats(self) -> dict[str, Any]:
        """Counts since the last reset.

        `total`, `in_flight`, `max_in_flight`, `limited` (by the windows), `statuses` (by what was answered, as text),
        `per_key` (by last four characters), `window_used`.
        """
        return cast("dict[str, Any]", self._ask("GET", "/_fake/stats"))

    def open_gate(self, name: str) -> None:
        """Let go who waits at this gate, now and until the next reset."""
        self._ask("POST", f"/_fake/gates/{quote(name, safe='')}/open")

    def release(self) -> None:
        """Let the calls that hang now have their answers."""
        self._ask("POST", "/_fake/release")

    def reset(self) -> None:
        """Forget calls, rules, windows and gates; whoever is held is let go."""
        self._ask("POST", "/_fake/reset")

    def _ask(self, method: str, path: str, content: Any = None, *, timeout_s: float = 30.0) -> Any:
        with requests.Session() as session:
            session.trust_env = False  # a test may set a proxy for the product; it is not for this
            response = session.request(method, self.base_url + path, json=content, timeout=timeout_s)
        if response.status_code >= 400:
            raise ValueError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json() if response.content else None


@contextmanager
def running(
    *,
    keys: Sequence[str] = (),
    per_minute: int = 1000,
    window: float = 60.0,
    latency: float = 0.0,
    record: Path | None = None,
) -> Iterator[FakeClient]:
    """A stand-in in a process of its own on a free port, stopped in the end. No keys: any key will do.

    `window` and `latency` are in seconds. `record` is a file that gets a line for each call that is over.
    """
    options = {"KEYS": ",".join(keys) or "any", "PER_MINUTE": per_minute, "WINDOW": window, "LATENCY": latency}
    if record is not None:
        options["RECORD"] = record.resolve()
    process = subprocess.Popen(
        [sys.executable, "-m", "fake_openrouter", "--until-stdin-closes"],
        cwd=_ROOT,
        env=_environment(options),  # which, unlike a command line, is in no list of processes
        stdin=subprocess.PIPE,  # closed by the kernel if this process is killed
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for who started it: the stand-in goes last
    )
    try:
        yield FakeClient(_address(process))
    finally:
        _stop(process)


def _environment(options: Mapping[str, object]) -> dict[str, str]:
    """Ours, with these options and no others."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
    return others | {ENVIRONMENT_PREFIX + name: str(value) for name, value in options.items()}


def _address(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise RuntimeError(f"the stand-in ended with {process.wait()} before it listened")
    return line.split()[-1]


def _stop(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
