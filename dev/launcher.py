"""Starts a command, above all the Procfile's: in a process group of its own, with its output in a file."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dev.waiting import TooLate, wait_until

ROOT = Path(__file__).resolve().parent.parent


def procfile(checkout: Path = ROOT) -> dict[str, str]:
    """The command of each process type."""
    return dict(line.split(": ", 1) for line in (checkout / "Procfile").read_text().splitlines() if line)


class Process:
    """A command of the shell, started; `log` gets its output, behind what is there."""

    def __init__(self, name: str, command: str, *, environment: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.name = name
        self.log = log
        self._told = 0
        with log.open("ab") as sink:
            self.popen = subprocess.Popen(
                command,
                shell=True,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # Ctrl-C is for who started it, and stops it in order
            )

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self, size: int = 3000) -> str:
        return self.output()[-size:]

    def new_lines(self) -> list[str]:
        """The whole lines of its output that no earlier call has returned."""
        with self.log.open("rb") as output:
            output.seek(self._told)
            whole, newline, _rest = output.read().rpartition(b"\n")
        self._told += len(whole) + len(newline)
        return whole.decode(errors="replace").split("\n") if newline else []

    def wait_for_output(self, text: str, *, count: int = 1, timeout_s: float = 30.0) -> None:
        """Return when it has said `text` so many times. Raises TooLate, with its last words, or when it has ended."""

        def seen() -> bool:
            ended = self.ended
            if (found := self.output().count(text)) == 0 and ended:
                raise TooLate(f"{self.name} ended with {self.popen.returncode}")
            return found >= count

        try:
            wait_until(seen, timeout_s=timeout_s, what=f"{text!r} in the output of {self.name}")
        except TooLate as error:
            raise TooLate(f"{error}\n{self.last_words()}") from None

    def signal_group(self, signum: int) -> None:
        """What Heroku and a terminal do: every process of the group gets the signal."""
        os.killpg(self.popen.pid, signum)

    def wait(self, timeout_s: float = 40.0) -> int:
        return self.popen.wait(timeout_s)

    def terminate(self) -> None:
        with suppress(ProcessLookupError):
            self.signal_group(signal.SIGTERM)

    def close(self) -> None:
        """End at once whatever is left of it. Idempotent."""
        with suppress(ProcessLookupError):
            self.signal_group(signal.SIGKILL)
        self.popen.wait(10)
