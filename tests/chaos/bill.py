"""Whether what `gemini usage` says was paid agrees with what the provider has charged, call by call and in all."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dev.launcher import ROOT
from dev.stack import Stack
from dev.waiting import wait_until

#: What was late is booked within two seconds.
LATE_S = 15.0

Call = Mapping[str, Any]


@dataclass(frozen=True)
class Bill:
    """The rows of paid calls, and their sum in dollars as `usage` tells it."""

    rows: Sequence[Call] = ()
    cost: float = 0.0
    lost: Mapping[str, int] = field(default_factory=Counter)  # calls of a request whose end a killed process took along

    def faults(self, calls: Sequence[Call]) -> Iterator[str]:
        """Where it does not agree with the provider's record of these calls."""
        charged = {call["generation_id"]: call for call in calls if call.get("cost")}
        booked = {row["generation_id"]: row for row in self.rows if row["cost"]}
        if len(booked) != sum(bool(row["cost"]) for row in self.rows):
            yield "a call was booked twice"
        for name, row in booked.items():
            if name not in charged or nano(charged[name]["cost"]) != nano(row["cost"]):
                yield f"booked for {row['cost']}, and not charged so: {name}"
        missing = Counter(request_of(charged[name]) for name in charged.keys() - booked.keys())
        cut_off = Counter(row["request"] for row in self.rows if row["cut_off"])
        for request_id, count in missing.items():
            if count > max(cut_off[digest(request_id)], self.lost.get(request_id, 0)):
                yield f"{count} calls for {request_id} were charged, and neither booked nor known to be cut off"
        if nano(self.cost) != (known := sum(nano(charged[name]["cost"]) for name in charged.keys() & booked.keys())):
            yield f"usage says {self.cost}, and its calls were charged {known / 1e9}"


def read(stack: Stack, calls: Sequence[Call], lost: Mapping[str, int]) -> Bill:
    """What an operator reads, as soon as it agrees with these calls, or after LATE_S."""
    found = [Bill()]

    def agrees() -> bool:
        rows = [json.loads(line) for line in _usage(stack, "--calls").splitlines()]
        found.append(Bill(rows, json.loads(_usage(stack, "--json"))["total"]["cost"], lost))
        return not any(found[-1].faults(calls))

    with suppress(AssertionError):  # the verdict says what is wrong
        wait_until(agrees, timeout_s=LATE_S, pause_s=1.0, what="the bill to agree")
    return found[-1]


def _usage(stack: Stack, option: str) -> str:
    command = [sys.executable, "-m", "console", "usage", "--since", "7d", option]
    environment = {**stack.environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def request_of(call: Call) -> str:
    """The prompt begins with it."""
    return str(call["prompt"]).partition("]")[0].removeprefix("[")


def digest(request_id: str) -> str:
    """As rows have it."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:16]


def nano(cost: float) -> int:
    return round(cost * 1_000_000_000)
