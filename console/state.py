"""The state of the whole: composed of what workers report, what keys are, and how deep the queues are.

Nothing of it is a prompt, an answer or a key. A part that cannot be had is missing, and `troubles` says why.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pika
from pika.exceptions import AMQPError

from console.depths import depth
from console.figures import Summary, summary
from console.key_doctor import Finding, examine
from console.opened import Opened, rabbitmq
from gateway.errors import TopologyError
from gateway.rabbitmq.topology import BATCH, CALLBACKS, DEAD_REQUESTS, DEAD_WORK, WORK, Topology
from gateway.settings import Settings
from gateway.usage.store import SPANS, Seen, Waiting

Role = Literal["requests", "in turn", "work", "batch", "key wait", "provider wait", "callbacks", "answers", "dead"]

HOUR_S, DAY_S = 3600.0, 86400.0


@dataclass(frozen=True)
class QueueState:
    """A queue; `messages` and `consumers` are None when it does not exist."""

    name: str
    role: Role
    messages: int | None
    consumers: int | None


@dataclass(frozen=True)
class State:
    """Everything, at one moment. `queues` is None when RabbitMQ cannot be asked."""

    workers: Sequence[Seen]
    queues: Sequence[QueueState] | None
    keys: Sequence[Finding]
    waits: Sequence[Waiting]
    hour: Summary
    day: Summary
    troubles: Sequence[str]

    @property
    def living(self) -> int:
        return sum(seen.lives for seen in self.workers)

    def messages(self, *roles: Role) -> int:
        """How many lie in the queues of these roles."""
        return sum(queue.messages or 0 for queue in self.queues or () if queue.role in roles)

    def key_states(self) -> dict[str, int]:
        return dict(Counter(key.state for key in self.keys))

    def as_json(self) -> dict[str, Any]:
        return {
            "workers": [worker_as_json(seen) for seen in self.workers],
            "queues": None if self.queues is None else [asdict(queue) for queue in self.queues],
            "keys": [key.as_json() for key in self.keys],
            "waits": [asdict(wait) for wait in self.waits],
            "last_hour": self.hour.as_json(),
            "last_day": self.day.as_json(),
            "troubles": list(self.troubles),
        }


def worker_as_json(seen: Seen) -> dict[str, Any]:
    return {**asdict(seen.process), "lives": seen.lives, "reported_ago_s": round(seen.ago_s, 1)}


#: Gives a connection for as long as somebody looks.
Connect = Callable[[Settings], AbstractContextManager[pika.BlockingConnection]]


def build(here: Opened, connect: Connect = rabbitmq) -> State:
    """Compose it. Raises StoreUnavailable; RabbitMQ may be away."""
    usage, settings = here.stores.usage, here.settings
    waits = usage.waits()
    troubles: list[str] = []
    try:
        with connect(settings) as connection:
            queues = look(connection, settings, also=[wait.queue for wait in waits])
    except TopologyError as error:
        queues = None
        troubles.append(str(error))
    except AMQPError as error:
        queues = None
        troubles.append(f"The connection to RabbitMQ ended ({type(error).__name__}): try again")
    return State(
        workers=usage.processes(),
        queues=queues,
        keys=examine(here.pool, settings.keys, limit=settings.keys_max_per_minute, ask=None),
        waits=waits,
        hour=summary(usage, last_s=HOUR_S),
        day=summary(usage, last_s=DAY_S, span=SPANS[1]),
        troubles=troubles,
    )


def look(connection: pika.BlockingConnection, settings: Settings, also: Sequence[str] = ()) -> list[QueueState]:
    """How deep every queue is that has to do with the worker, and those of waits of an older schedule."""
    found = []
    for name, role in roles(settings, also).items():
        seen = depth(connection, name)
        found.append(QueueState(name, role, seen.messages if seen else None, seen.consumers if seen else None))
    return found


def roles(settings: Settings, also: Sequence[str] = ()) -> dict[str, Role]:
    """Every queue, in the order of a request's way."""
    named = {settings.request_queue: "requests"} | {name: role_of(name) for name in [*Topology(settings).ours, *also]}
    named[settings.response_queue] = "answers"
    return {name: role for role in get_args(Role) for name, found in named.items() if found == role}


def role_of(queue: str) -> Role:
    """What a queue of ours is for."""
    if queue in {DEAD_REQUESTS, DEAD_WORK}:
        return "dead"
    if queue == CALLBACKS or queue.startswith(f"{CALLBACKS}."):
        return "callbacks"
    is_batch = queue == BATCH or queue.startswith(f"{BATCH}.")
    parts: dict[str, Role] = {"delay": "key wait", "backoff": "provider wait", "fair": "in turn"}
    return parts.get(queue.removeprefix(BATCH if is_batch else WORK)[1:].split(".")[0], "batch" if is_batch else "work")
