"""The failpoint matrix: our process ends at each step, of the first delivery and of the next one as well."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dev.waiting import wait_until
from tests.chaos.arena import Arena
from tests.chaos.checker import Evidence, judge
from tests.chaos.faults import RELAY_STEPS
from tests.chaos.node import ChaosNode
from tests.chaos.workload import Kind, Producer, Request

#: An error that is about the model, whatever the key: while it rests there is no key for the request.
MODEL_RESTS = {"code": 429, "message": "Busy", "metadata": {"limit_source": "upstream_provider_shared_pool"}}

_CALL = ("received", "before call")
_PUBLISH = ("stored", "envelope sent", "confirmed", "published", "before ack", "ack asked")
_SCHEDULE = ("copy sent", "copy confirmed", "before ack", "ack asked")

#: What a delivery can come to, and the steps on its way.
STEPS: dict[Kind, Sequence[str]] = {
    Kind("answered", 1): ("arrived", *RELAY_STEPS, *_CALL, "after call", *_PUBLISH),
    Kind("failed", 1, ending="error", rule={"status": 400}): (*_CALL, *_PUBLISH),
    Kind("waits for a key", 1, calls=2, rule={"status": 429, "times": 1, "body": {"error": MODEL_RESTS}}): (
        *_CALL,
        *_SCHEDULE,
    ),
    Kind("waits for the provider", 1, calls=2, rule={"status": 500, "times": 1}): (*_CALL, *_SCHEDULE),
}

#: Steps that the next delivery does not come to, or need not: what is stored is not stored again, and an ack that was
#: asked for may have reached RabbitMQ. There is no second crash at these.
ONCE = ("stored", "published", "ack asked", *RELAY_STEPS)

#: Where a crash costs another call; nowhere else.
PAID_AGAIN = ("after call",)

#: Where it leaves an envelope in RabbitMQ that the next delivery sends again, and where it leaves a copy that waits.
SENT_AGAIN = ("envelope sent", "confirmed")
WAITS_TWICE = ("copy sent", "copy confirmed")

#: For how long our queues must have been empty before a case is over, in seconds. RabbitMQ counts on a tick of its own,
#: three times a second, and tells nobody when.
QUIET_S = 1.0


@dataclass(frozen=True)
class Case:
    """Our process ends at `step` of a request of this kind: once, or the next time as well."""

    number: int
    outcome: Kind
    step: str
    times: int

    @property
    def name(self) -> str:
        return f"{self.outcome.name}, {self.step}, {'once' if self.times == 1 else 'twice'}"

    @property
    def kind(self) -> Kind:
        """To be sent to wait again, after the first crash, the request has to fail again."""
        if self.times == 1 or self.step not in WAITS_TWICE or self.outcome.rule is None:
            return self.outcome
        return replace(self.outcome, calls=self.outcome.calls + 1, rule={**self.outcome.rule, "times": self.times})

    @property
    def request(self) -> Request:
        return Request(f"f{self.number}", self.kind, "canary-prompt", model=f"vendor/model-{self.number}")

    @property
    def crashes(self) -> int:
        """How often a process ends: a request that is relayed has come before, to a process that ended over it."""
        return self.times + self.is_relayed

    @property
    def is_relayed(self) -> bool:
        return self.step in RELAY_STEPS


@dataclass(frozen=True)
class Cell:
    """What became of a case; as promised when `faults` is empty."""

    case: Case
    seconds: float
    crashes: int
    calls: int
    paid_again: int
    copies: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        if self.faults:
            return "FAILED"
        again = [f"{count} {what}" for count, what in ((self.paid_again, "paid again"), (self.copies, "copy")) if count]
        return f"{self.crashes}: {', '.join(again) or 'once'}"


def cases() -> list[Case]:
    """Every step of every outcome, with one crash, and with two where there can be two."""
    triples = (
        (kind, step, times)
        for kind, steps in STEPS.items()
        for step in steps
        for times in ((1,) if step in ONCE else (1, 2))
    )
    return [Case(number, *triple) for number, triple in enumerate(triples)]


def play(case: Case, arena: Arena, node: ChaosNode, *, timeout_s: float = 120.0) -> Cell:
    """Play a case to its end and judge it. In one arena cases come one after the other."""
    started = time.monotonic()
    before = len(arena.journal()), len(arena.envelopes)
    if case.is_relayed:
        arena.arm("arrived", case.request.id)
    arena.arm(case.step, case.request.id, times=case.times)
    producer = Producer(arena.direct.url, [case.request], seconds=0.01)
    producer.start()
    trouble = _until_over(arena, node, before, timeout_s)
    missed = arena.armed()
    arena.disarm()
    trouble += [f"nobody came to the failpoint {name}" for name in missed]
    evidence = evidence_of(case.request, arena, node, producer, before)
    return _judge(case, time.monotonic() - started, case.crashes - len(missed), evidence, trouble)


def _until_over(arena: Arena, node: ChaosNode, before: tuple[int, int], timeout_s: float) -> list[str]:
    """Wait for every crash, an envelope, and the end of every delivery; what went wrong meanwhile."""
    quiet_since = time.monotonic()

    def busy() -> bool:
        arena.read("gemini.responses")
        answered = len(arena.envelopes) > before[1]
        return (
            not answered
            or bool(arena.armed())
            or unsettled(arena.journal()[before[0] :])
            or any(node.ours(arena.direct.url).values())
        )

    def over() -> bool:
        nonlocal quiet_since
        if busy():
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > QUIET_S

    try:
        wait_until(over, timeout_s=timeout_s, pause_s=0.05, what="an envelope, every crash and empty queues")
    except AssertionError as error:
        last = [line for process in arena.running.values() for line in process.output().splitlines()[-8:]]
        return [str(error), *last]
    return []


def unsettled(journal: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the latest worker process works on a delivery, or has ended with one that is to come again."""
    deliveries = [line for line in journal if line["step"] in {"received", "ack asked", "given back"}]
    latest = [line["step"] for line in deliveries if line["pid"] == deliveries[-1]["pid"]]
    return latest.count("received") > len(latest) - latest.count("received")


def evidence_of(
    request: Request, arena: Arena, node: ChaosNode, producer: Producer, before: tuple[int, int]
) -> Evidence:
    """What one request has left behind; `before` it, there were so many journal lines and envelopes."""
    return Evidence(
        confirmed=producer.confirmed,
        unsure=producer.unsure,
        envelopes=arena.envelopes[before[1] :],
        dead=[],
        calls=[call for call in arena.fake.calls() if call["prompt"] == request.prompt],
        journal=arena.journal()[before[0] :],
        left=node.ours(arena.direct.url),
        output="",
        secrets=(),
        canary=request.canary,
    )


def _judge(case: Case, seconds: float, crashes: int, evidence: Evidence, trouble: Iterable[str]) -> Cell:
    """The checker's promises, and the exact places where a crash may cost a call or a copy."""
    verdict = judge(evidence)
    faults = [*trouble, *verdict.faults]
    paid_again = verdict.calls - case.kind.calls
    if paid_again != (crashes if case.step in PAID_AGAIN else 0):
        faults.append(f"{verdict.calls} calls, {case.kind.calls} asked for, {crashes} crashes")
    faults += _copies(case, verdict.copies, crashes)
    count = Counter(line["step"] for line in evidence.journal if line["id"] == case.request.id)
    messages = max(1, count["relayed"]) + count["copy sent"]
    if case.step in WAITS_TWICE and count["ack asked"] != messages:
        faults.append(f"{count['ack asked']} deliveries were acked, of {messages} that were relayed or sent to wait")
    return Cell(case, seconds, crashes, verdict.calls, paid_again, verdict.copies, tuple(faults))


def _copies(case: Case, copies: int, crashes: int) -> list[str]:
    """Exactly one more envelope for each that a crash has left in RabbitMQ, and no other."""
    wanted = crashes if case.step in SENT_AGAIN else 0
    return [] if copies == wanted else [f"{copies} copies after {crashes} crashes"]


def table(cells: Sequence[Cell]) -> str:
    """Steps down, outcomes across: crashes, and what they cost. Two columns each: first delivery, next one as well."""
    return "\n".join(_rows(cells))


def _rows(cells: Sequence[Cell]) -> Iterator[str]:
    found = {(cell.case.outcome, cell.case.step, cell.case.times): cell for cell in cells}
    columns = [(kind, times) for kind in STEPS for times in (1, 2)]
    yield f"{'the process ends at':<20}" + "".join(f"{kind.name:<42}" for kind in STEPS)
    yield f"{'':<20}" + "".join(f"{'once' if times == 1 else 'and again':<21}" for _kind, times in columns)
    for step in dict.fromkeys(step for steps in STEPS.values() for step in steps):
        row = [found.get((kind, step, times)) for kind, times in columns]
        yield f"{step:<20}" + "".join(f"{str(cell) if cell else '-':<21}" for cell in row)
