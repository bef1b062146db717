"""One round: a seed decides on the requests, the faults and their moments; the checker has the last word."""

import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.chaos import bill
from tests.chaos.arena import Arena
from tests.chaos.checker import Evidence, Verdict, interrupted, judge
from tests.chaos.faults import BRIDGE_FAULTS, FAULTS, Fault, Where
from tests.chaos.node import ChaosNode
from tests.chaos.workload import Producer, requests

KEYS = ("sk-or-v1-canary-key-1111", "sk-or-v1-canary-key-2222", "sk-or-v1-canary-key-3333")

#: What the provider allows each key, and what the product is told: calls in seconds.
PER_WINDOW, WINDOW_S = 10, 2.0

REQUESTS, SECONDS = 60, 6.0

#: How long a round may take to come to rest after its last fault, in seconds.
DRAIN_S = 120.0

SETTINGS: dict[str, object] = {
    "OPENROUTER_API_KEYS": ",".join(KEYS),
    "KEYS_MAX_PER_MINUTE": PER_WINDOW,
    "KEYS_WINDOW_SECONDS": WINDOW_S,
    "KEYS_COOLDOWN_SECONDS": 1,
    "QUEUE_RETRY_DELAYS": "2,4,8,16",
    "UPSTREAM_RETRY_DELAYS": "0.2,0.5",
    "REQUEST_TIMEOUT_SECONDS": 8,
    "CALLBACK_QUEUE_CREATE": 1,
    "WORKER_PROCESSES": 2,
    "WORKER_THREADS": 8,
    "LOG_LEVEL": "DEBUG",
    "CHAOS_PUBLISH_TIMEOUT_S": 3,  # of the test build: a confirm that does not come is given up sooner
}


@dataclass(frozen=True)
class Plan:
    """What the seed has decided."""

    seed: int
    faults: tuple[Fault, ...]

    @property
    def with_bridge(self) -> bool:
        """Whether a bridge runs beside the worker, as some do it: in every third round, and where it is the victim."""
        return self.seed % 3 == 0 or any(fault in BRIDGE_FAULTS for fault in self.faults)

    @property
    def settings(self) -> dict[str, object]:
        """Tags take turns in every third round, and in another third a part of each window is kept from batch."""
        return [{"FAIRNESS_FIELD": "tenant"}, {"INTERACTIVE_RESERVE": 0.3}, {}][self.seed % 3]

    @classmethod
    def of(cls, seed: int, faults: Sequence[Fault] = FAULTS) -> "Plan":
        """Two or three faults; every fault comes once in a while whatever the seeds are."""
        rng = random.Random(seed)
        always = faults[seed % len(faults)]
        others = rng.sample([fault for fault in faults if fault is not always], min(len(faults) - 1, rng.randint(1, 2)))
        return cls(seed, (always, *others))

    def __str__(self) -> str:
        return ", ".join(fault.__name__.replace("_", " ") for fault in self.faults)


@dataclass(frozen=True)
class Result:
    plan: Plan
    verdict: Verdict
    seconds: float
    folder: Path


def play(plan: Plan, node: ChaosNode, fake: FakeClient, folder: Path, **settings: object) -> Result:
    """Play a round to its end and judge it; `settings` of the product go beyond, or against, the usual ones."""
    started = time.monotonic()
    with node.fresh_vhost() as url, arena_on(url, node, fake, folder, **(plan.settings | settings)) as arena:
        canary = f"canary-prompt-{uuid.uuid4().hex[:12]}"
        rng = random.Random(plan.seed)
        todo = requests(REQUESTS, name=f"s{plan.seed}", canary=canary, rng=rng)
        fake.reset()
        fake.script([rule for request in todo for rule in request.rules])
        arena.with_bridge = plan.with_bridge
        arena.start()
        producer = Producer(url, todo, seconds=SECONDS, go=arena.producing)
        producer.start()
        outages: list[tuple[float, float]] = []
        for fault in plan.faults:
            threading.Event().wait(rng.uniform(0.3, 1.5))
            began = time.time()
            fault(Where(arena, node, rng))
            outages.append((began, time.time()))
        producer.finish(120)
        arena.disarm()
        verdict = judge(replace(_gather(url, node, arena, producer, canary), outages=outages))
        verdict.crashes = len(arena.ended)
    return Result(plan, verdict, time.monotonic() - started, folder)


@contextmanager
def arena_on(url: str, node: ChaosNode, fake: FakeClient, folder: Path, **settings: object) -> Iterator[Arena]:
    """An arena of a round's own, on a virtual host of a shared server."""
    user = node.add_user()
    node.permit(url, user=user.partition(":")[0])
    folder.mkdir(parents=True, exist_ok=True)
    arena = Arena(url, user, fake, folder, **(SETTINGS | settings))
    try:
        yield arena
    finally:
        arena.close()


def _gather(url: str, node: ChaosNode, arena: Arena, producer: Producer, canary: str) -> Evidence:
    """Wait until the queues have drained, then read everything that is left behind."""
    wanted = {request.id for request in producer.confirmed}
    dead: dict[str, str] = {}
    left: dict[str, int] = {}

    def at_rest() -> bool:
        _read_all(arena, url, node)
        dead.update(_dead(arena))
        known = {envelope.request_id for envelope in arena.envelopes}
        missing = {one for one in wanted - known if not any(f"[{one}]" in body for body in dead.values())}
        left.clear()
        left.update(node.ours(url))
        return not missing and not left

    with suppress(AssertionError):  # the verdict says what is missing
        wait_until(at_rest, timeout_s=DRAIN_S, pause_s=0.3, what="the queues to drain")
    _read_all(arena, url, node)
    calls, journal = arena.fake.calls(), arena.journal()
    return Evidence(
        bill=bill.read(arena.stack, calls, interrupted(journal)),
        confirmed=producer.confirmed,
        unsure=producer.unsure,
        envelopes=arena.envelopes,
        dead=list(dead.values()),
        calls=calls,
        journal=journal,
        left=left,
        output=arena.output(),
        secrets=(*KEYS, node.password),
        canary=canary,
        pieces=arena.pieces,
    )


def _read_all(arena: Arena, url: str, node: ChaosNode) -> None:
    for queue in node.queues(url):
        if queue.startswith(("gemini.responses", "chaos.made.")):
            arena.read(queue)


def _dead(arena: Arena) -> dict[str, str]:
    """The dead letters by message id, with their bodies; they stay where they are."""
    found: dict[str, Any] = {}
    with arena.direct.channel() as channel:
        for queue in ("gemini.requests.dead", "gemini.generate.dead"):
            while (message := channel.basic_get(queue))[0] is not None:
                _method, properties, body = message
                found[f"{queue}/{properties.message_id}"] = body.decode(errors="replace")
    return found
