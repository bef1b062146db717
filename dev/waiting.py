"""The one way to wait for something: a condition that is looked at until it is true, and a deadline."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TooLate(AssertionError):
    """The condition did not come true in time; where a test waits for it, this is the test's failure."""


def wait_until(
    condition: Callable[[], T], *, timeout_s: float = 30.0, pause_s: float = 0.02, what: str = "the condition"
) -> T:
    """Return the condition's first true value, looked at every `pause_s` seconds. Raises TooLate."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise TooLate(f"{what} did not come true in {timeout_s:g} s")
        pause.wait(pause_s)
