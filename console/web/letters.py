"""Dead letters by reason, and their way back: a dry run first, and then what the dry run has shown, no letter more.

Bodies are never kept: only what `DeadLetter.facts` shows to anybody.
"""

import hashlib
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from console.dead.letter import DeadLetter
from console.dead.queues import QUEUES, DeadQueues
from gateway.errors import PublishError

#: How many letters of a queue are looked at.
MOST = 1000

#: How many dry runs are remembered: whoever comes back to an older one makes it again.
MOST_PLANS = 20

#: How many letters of a group, or of a plan, are named.
NAMED = 5

#: What differs between two letters that are dead for the same reason: numbers, and names that hold one.
_VARYING = re.compile(r"[\w.-]*\d[\w.-]*")


@dataclass(frozen=True)
class Group:
    """Letters of one queue, kind and error code that are dead for the same reason, but for numbers and names in it."""

    id: str
    queue: str
    kind: str
    code: str | None
    reason: str | None
    count: int
    first: str | None
    last: str | None
    redriven: int
    requests: Sequence[str]


@dataclass(frozen=True)
class Survey:
    """What lies there, the largest group first; `unseen` letters lie behind those that were looked at."""

    groups: Sequence[Group]
    unseen: int


@dataclass(frozen=True)
class Plan:
    """A dry run: these letters would go there; `stays` have no way back."""

    id: str
    letters: Sequence[tuple[str, str]]
    targets: dict[str, int]
    stays: int
    requests: Sequence[str]

    @property
    def count(self) -> int:
        return sum(self.targets.values())


@dataclass(frozen=True)
class Sent:
    """What became of a plan: how many went where, and why the others did not."""

    targets: dict[str, int]
    trouble: str | None

    @property
    def count(self) -> int:
        return sum(self.targets.values())


class Letters:
    """Looks at the dead queues and sends letters back, one caller at a time. Thread-safe.

    Every method raises TopologyError or AMQPError when RabbitMQ is away.
    """

    def __init__(self, queues: Callable[[], DeadQueues]) -> None:
        self._queues = queues
        self._lock = threading.Lock()  # what one caller holds another one would not see
        self._plans: dict[str, Plan] = {}

    def survey(self) -> Survey:
        with self._lock, self._queues() as dead:
            facts = [held.letter.facts for held in _all(dead)]
            held = sum(dead.count(queue) for queue in QUEUES)
        found: dict[str, list[dict[str, Any]]] = {}
        for one in facts:
            found.setdefault(_group(one), []).append(one)
        groups = [_summed(name, members) for name, members in found.items()]
        # What is held while it is looked at is not counted as lying there.
        return Survey(sorted(groups, key=lambda group: (-group.count, group.id)), unseen=held)

    def plan(self, group: str) -> Plan:
        """A dry run of the letters of a group, as they are now."""
        with self._lock, self._queues() as dead:
            chosen = [held for held in _all(dead) if _group(held.letter.facts) == group]
            went = [(held.letter, dead.redrive(held, dry=True)) for held in chosen]
        going = [letter for letter, target in went if target is not None]
        plan = Plan(
            id=secrets.token_urlsafe(16),
            letters=tuple(map(_name, going)),
            targets=dict(Counter(target for _, target in went if target is not None)),
            stays=len(went) - len(going),
            requests=_named([letter.facts for letter in going]),
        )
        self._plans = dict([*self._plans.items(), (plan.id, plan)][-MOST_PLANS:])
        return plan

    def send(self, plan_id: str) -> Sent | None:
        """Send what a dry run has shown, once; None for a plan that is not known, or was sent already."""
        with self._lock:
            plan = self._plans.pop(plan_id, None)
            if plan is None:
                return None
            with self._queues() as dead:
                return _sent(dead, plan)


def _sent(dead: DeadQueues, plan: Plan) -> Sent:
    """Each letter once, though another one may have its name."""
    left = Counter(plan.letters)
    targets: Counter[str] = Counter()
    for held in _all(dead):
        if left[_name(held.letter)] <= 0:
            continue
        try:
            target = dead.redrive(held, dry=False)
        except PublishError as error:
            return Sent(dict(targets), f"{error}. What follows stays.")
        if target is not None:
            left[_name(held.letter)] -= 1
            targets[target] += 1
    missing = plan.count - sum(targets.values())
    return Sent(dict(targets), f"{missing} were no longer there." if missing else None)


def _all(dead: DeadQueues) -> Iterator[Any]:
    for queue in QUEUES:
        yield from dead.letters(queue, lambda _letter: True, MOST)


def _name(letter: DeadLetter) -> tuple[str, str]:
    return letter.queue, letter.id


def _group(facts: dict[str, Any]) -> str:
    same = (facts["queue"], facts["kind"], facts["error_code"], _VARYING.sub("#", facts["reason"] or ""))
    return hashlib.sha256(repr(same).encode(errors="surrogatepass")).hexdigest()[:16]


def _summed(name: str, members: Sequence[dict[str, Any]]) -> Group:
    one = members[0]
    times = sorted(time for member in members if (time := member["last"] or member["first"]))
    return Group(
        id=name,
        queue=one["queue"],
        kind=one["kind"],
        code=one["error_code"],
        reason=one["reason"],
        count=len(members),
        first=times[0] if times else None,
        last=times[-1] if times else None,
        redriven=sum(member["redriven"] > 0 for member in members),
        requests=_named(members),
    )


def _named(members: Sequence[dict[str, Any]]) -> list[str]:
    return [one["request_id"] or one["id"] for one in members[:NAMED]]
