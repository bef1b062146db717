"""The flow as a picture: what stands where on the way of a request, and where the lines between go."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from console.screen import number
from console.state import Role, State

Tone = Literal["plain", "busy", "wait", "bad"]


@dataclass(frozen=True)
class Node:
    """A station: how many are there, in words what that means."""

    name: str
    label: str
    count: str
    remark: str
    tone: Tone


@dataclass(frozen=True)
class Box:
    """Where a station is drawn."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Layout:
    """A picture of so many units; lines are paths, each ends with an arrow. `small`: for a phone."""

    width: int
    height: int
    boxes: dict[str, Box]
    lines: Sequence[str]
    small: bool = False


_LOWER = dict(zip(("dead", "key", "work", "provider", "held"), (2, 196, 390, 584, 778), strict=True))

WIDE = Layout(
    width=956,
    height=264,
    boxes={
        "requests": Box(2, 4, 224, 88),
        "workers": Box(366, 4, 224, 88),
        "answers": Box(730, 4, 224, 88),
        **{name: Box(x, 182, 176, 78) for name, x in _LOWER.items()},
    },
    lines=(
        "M226 44 H358",  # requests → workers
        "M590 44 H722",  # workers → answers
        "M400 92 C400 140 284 126 284 174",  # workers → wait for a key
        "M556 92 C556 140 672 126 672 174",  # workers → wait for the provider
        "M366 74 C330 74 330 120 240 122 C140 124 90 130 90 174",  # workers → dead
        "M590 74 C626 74 626 120 716 122 C800 124 840 130 840 174",  # workers → held answers
        "M372 221 H382",  # wait for a key → back to work
        "M584 221 H574",  # wait for the provider → back to work
        "M478 182 V100",  # back to work → workers
        "M890 182 V100",  # held answers → answers
    ),
)

NARROW = Layout(
    width=340,
    height=512,
    boxes={
        "requests": Box(22, 4, 290, 62),
        "workers": Box(22, 94, 290, 76),
        "key": Box(22, 200, 133, 66),
        "provider": Box(179, 200, 133, 66),
        "work": Box(22, 294, 290, 50),
        "held": Box(22, 376, 133, 66),
        "answers": Box(179, 376, 133, 66),
        "dead": Box(22, 460, 290, 48),
    },
    lines=(
        "M167 66 V86",  # requests → workers
        "M88 170 V192",  # workers → wait for a key
        "M245 170 V192",  # workers → wait for the provider
        "M88 266 V286",  # wait for a key → back to work
        "M245 266 V286",  # wait for the provider → back to work
        "M22 319 H10 V132 H14",  # back to work → workers
        "M312 132 H330 V409 H320",  # workers → answers
        "M330 409 V484 H320",  # workers → dead
        "M155 409 H171",  # held answers → answers
    ),
    small=True,
)

LAYOUTS = (WIDE, NARROW)


@dataclass(frozen=True)
class Station:
    """Where messages lie, and how it is drawn when there are any; `empty`: in words that there are none."""

    name: str
    label: str
    roles: tuple[Role, ...]
    remark: str
    tone: Tone
    empty: str = "nobody"


STATIONS = (
    Station("requests", "Requests", ("requests", "in turn", "batch"), "wait for a worker", "plain"),
    Station("key", "Wait for a key", ("key wait",), "come back in time", "wait"),
    Station("provider", "Wait for provider", ("provider wait",), "come back in time", "wait"),
    Station("work", "Back to work", ("work",), "taken before new ones", "plain"),
    Station("answers", "Answers", ("answers",), "not fetched yet", "plain", "all fetched"),
    Station("held", "Held answers", ("callbacks",), "refused by their queue", "wait", "none"),
    Station("dead", "Dead letters", ("dead",), "somebody has to look", "bad", "none"),
)


def nodes(state: State) -> list[Node]:
    """What is at each station."""
    return [_workers(state), *(_node(state, station) for station in STATIONS)]


def _workers(state: State) -> Node:
    living = [seen.process for seen in state.workers if seen.lives]
    if not living:
        return Node("workers", "Workers", "none", "nobody reports", "bad")
    flying = sum(process.in_flight for process in living)
    room = sum(process.threads for process in living)
    tone: Tone = "busy" if flying else "plain"
    return Node("workers", "Workers", f"{number(flying)} of {number(room)}", "calls in flight", tone)


def _node(state: State, station: Station) -> Node:
    if state.queues is None:
        return Node(station.name, station.label, "?", "not known", "plain")
    count = state.messages(*station.roles)
    remark, tone = (station.remark, station.tone) if count else (station.empty, "plain")
    if "batch" in station.roles and (batch := state.messages("batch")):
        remark = f"wait; {number(batch)} of them batch"
    return Node(station.name, station.label, number(count), remark, tone)


def told(nodes: Sequence[Node]) -> str:
    """The picture in words."""
    return "; ".join(f"{node.label}: {node.count} {node.remark}" for node in nodes)
