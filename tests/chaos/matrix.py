"""The failpoint matrix: our process ends at each step, of the first delivery and of the next one as well."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.chaos.arena import Arena
from tests.chaos.checker import Evidence, judge
from tests.chaos.faults import BRIDGE_STEPS
from tests.chaos.node import ChaosNode
from tests.chaos.workload import Kind, Producer, Request
from tests.system.stack import wait_until

#: An error that is about the model, whatever the key: while it rests there is no key for the request.
MODEL_RESTS = {"code": 429, "message": "Busy", "metadata": {"limit_source": "upstream_provider_shared_pool"}}

_CALL = ("received", "before call")
_PUBLISH = ("stored", "envelope sent", "confirmed", "published", "before ack", "ack asked")
_SCHEDULE = ("copy sent", "copy confirmed", "before ack", "ack asked")

#: What a delivery can come to, and the steps on its way.
STEPS: dict[Kind, Sequence[str]] = {
    Kind("answered", 1): (*BRIDGE_STEPS, *_CALL, "after call", *_PUBLISH),
    Kind("failed", 1, ending="error", rule={"status": 400}): (*_CALL, *_PUBLISH),
    Kind("waits for a key", 1, calls=2, rule={"status": 429, "times": 1, "body": {"error": MODEL_RESTS}}): (
        *_CALL,
        *_SCHEDULE,
    ),
    Kind("waits for the provider", 1, calls=2, rule={"status": 500, "times": 1}): (*_CALL, *_SCHEDULE),
}

#: Where a crash costs another call, and where it makes another copy of the envelope; nowhere else.
PAID_AGAIN = ("after call",)
SENT_AGAIN = ("envelope sent", "confirmed", "bridge: relayed", "bridge: before ack", "bridge: acked")

#: How long our queues must have been empty before a case is over, in seconds: RabbitMQ counts three times a second.
QUIET_S = 0.7


@dataclass(frozen=True)
class Case:
    """Our process ends at `step` of a request of this kind, and again when it comes there again, up to `times`."""

    number: int
    kind: Kind
    step: str
    times: int

    @property
    def request(self) -> Request:
        return Request(f"f{self.number}", self.kind, "canary-prompt", model=f"vendor/model-{self.number}")

    @property
    def target(self) -> str:
        return "any" if self.step in BRIDGE_STEPS else self.request.id


@dataclass(frozen=True)
class Cell:
    """What became of a case; as promised when `faults` is empty."""

    case: Case
    crashes: int
    paid_again: int
    copies: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        if self.faults:
            return "FAILED"
        again = [f"{count} {what}" for count, what in ((self.paid_again, "paid again"), (self.copies, "copy")) if count]
        return f"{self.crashes}: {', '.join(again) or 'once'}"


def cases() -> list[Case]:
    """Every step of every outcome, with one crash and with two."""
    pairs = [(kind, step, times) for kind, steps in STEPS.items() for step in steps for times in (1, 2)]
    return [Case(number, *pair) for number, pair in enumerate(pairs)]


def play(case: Case, arena: Arena, node: ChaosNode, *, timeout_s: float = 120.0) -> Cell:
    """Play a case to its end and judge it. In one arena cases come one after the other."""
    before = len(arena.journal()), len(arena.envelopes)
    crashes = 0
    arena.arm(case.step, case.target)
    producer = Producer(arena.direct.url, [case.request], seconds=0.01)
    producer.start()
    quiet_since = time.monotonic()

    def over() -> bool:
        nonlocal crashes, quiet_since
        if crashes < case.times and not arena.armed():
            crashes += 1
            if crashes < case.times:
                arena.arm(case.step, case.target)
        arena.read("gemini.responses")
        answered = len(arena.envelopes) > before[1]
        if not answered or crashes == 0 or any(node.ours(arena.direct.url).values()):
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > QUIET_S

    try:
        wait_until(over, timeout_s=timeout_s, pause_s=0.05, what="an answer and empty queues")
        trouble = []
    except AssertionError as error:
        last = [line for process in arena.running.values() for line in process.output().splitlines()[-8:]]
        trouble = [str(error), *last]
    arena.disarm()
    return _judge(case, crashes, _evidence(case, arena, node, producer, before), trouble)


def _evidence(case: Case, arena: Arena, node: ChaosNode, producer: Producer, before: tuple[int, int]) -> Evidence:
    return Evidence(
        confirmed=producer.confirmed,
        unsure=producer.unsure,
        envelopes=arena.envelopes[before[1] :],
        dead=[],
        calls=[call for call in arena.fake.calls() if call["prompt"] == case.request.prompt],
        journal=arena.journal()[before[0] :],
        left=node.ours(arena.direct.url),
        output="",
        secrets=(),
        canary=case.request.canary,
    )


def _judge(case: Case, crashes: int, evidence: Evidence, trouble: list[str]) -> Cell:
    """The checker's promises, and the exact places where a crash may cost a call or a copy."""
    verdict = judge(evidence)
    faults = trouble + verdict.faults
    paid_again = verdict.calls - case.kind.calls
    if paid_again != (crashes if case.step in PAID_AGAIN else 0):
        faults.append(f"{verdict.calls} calls, {case.kind.calls} asked for, {crashes} crashes")
    if verdict.copies > (crashes if case.step in SENT_AGAIN else 0):
        faults.append(f"{verdict.copies} copies after {crashes} crashes")
    return Cell(case, crashes, paid_again, verdict.copies, tuple(faults))


def table(cells: Sequence[Cell]) -> str:
    """Steps down, outcomes across: crashes, and what they cost. Two columns each: first delivery, next one as well."""
    return "\n".join(_rows(cells))


def _rows(cells: Sequence[Cell]) -> Iterator[str]:
    found = {(cell.case.kind, cell.case.step, cell.case.times): cell for cell in cells}
    columns = [(kind, times) for kind in STEPS for times in (1, 2)]
    yield f"{'the process ends at':<20}" + "".join(f"{kind.name:<42}" for kind in STEPS)
    yield f"{'':<20}" + "".join(f"{'once' if times == 1 else 'and again':<21}" for _kind, times in columns)
    for step in dict.fromkeys(step for steps in STEPS.values() for step in steps):
        row = [found.get((kind, step, times)) for kind, times in columns]
        yield f"{step:<20}" + "".join(f"{str(cell) if cell else '-':<21}" for cell in row)
