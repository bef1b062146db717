"""A state to draw, and the page around it, without RabbitMQ and without a store."""

import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette

from console.figures import Figures, Summary
from console.key_doctor import Finding
from console.state import QueueState, State
from console.web.app import application
from console.web.door import Door
from console.web.drawing import Drawing
from console.web.feed import Feed
from console.web.guard import Place
from console.web.letter_pages import LetterPages
from console.web.letters import Letters
from console.web.live import Live
from console.web.sessions import Sessions
from gateway.usage.store import Process, Seen, Waiting

PASSWORD = "a long enough password"
LOCAL = Place("127.0.0.1")

#: A test waits for the figures, however busy the machine is.
PATIENCE_S = 60.0

Look = Callable[[], State]


def finding(number: int, state: str = "ready", *, used: int = 0, back_in_s: float = 0.0) -> Finding:
    reason = {"limited": "429 Rate limit exceeded", "refused": "402 Insufficient credits"}.get(state)
    label = {0: "team-a", 1: "team-a", 900: "old"}.get(number)
    return Finding(f"****{number:04}", label, state, reason, None, back_in_s, used, 10, 0, None, None, None, None)


def waiting(number: int, queue: str, due_in_s: float) -> Waiting:
    why = "No key available: the window of each is full"
    return Waiting(f"d-{number}", f"request-{number}", queue, due_in_s, "rate_limit", why, "google/gemini-2.5-flash", 1)


def process(number: int, *, ago_s: float = 1.0, not_ready: str | None = None) -> Seen:
    facts = Process(f"p-{number}", f"worker-{number}", 40 + number, "0.1.0", time.time() - 7300, 50, 21, 23, not_ready)
    return Seen(facts, ago_s)


def summary(count: int) -> Summary:
    this = int(time.time()) // 60 * 60
    latencies = {"le_1": count // 2, "le_2.5": count // 3, "le_10": count // 6}
    return Summary(
        calls=Figures(
            calls=count + 31,
            failed=31,
            prompt_tokens=812 * count,
            completion_tokens=240 * count,
            cost=0.00042 * count,
            latencies=latencies,
        ),
        outcomes={"answered": count, "scheduled": 27},
        errors={"rate_limit": 14, "upstream": 9, "invalid_request": 3} if count else {},
        answered={this - 60 * back: 20 + (back * 37) % 41 for back in range(61)} if count else {},
    )


def state(**changes: object) -> State:
    """A busy one: somebody waits in each way, keys rest, a worker is gone, letters are dead."""
    queues = [
        QueueState("gemini.requests", "requests", 1284, 2),
        QueueState("gemini.generate", "work", 3, 2),
        QueueState("gemini.generate.delay.60s", "key wait", 18, 0),
        QueueState("gemini.generate.delay.86400s", "key wait", 100_000, 0),
        QueueState("gemini.generate.backoff.10s", "provider wait", 6, 0),
        QueueState("gemini.callbacks", "callbacks", 2, 2),
        QueueState("gemini.responses", "answers", 7, 1),
        QueueState("gemini.requests.dead", "dead", 3, 0),
    ]
    waits = [
        *(waiting(number, "gemini.generate.backoff.10s", 1.0 + number) for number in range(6)),
        *(waiting(number, "gemini.generate.delay.60s", 2.0 + 3.1 * number) for number in range(18)),
        *(waiting(number, "gemini.generate.delay.86400s", 500.0 * 1.04**number) for number in range(130)),
    ]
    keys = [
        *(finding(number, "limited", used=10, back_in_s=30.0 + 300 * number) for number in range(3)),
        finding(900, "refused", back_in_s=90_000.0),
        *(finding(1000 + number, "window full", used=10, back_in_s=4.0 + number) for number in range(5)),
        *(finding(2000 + number, used=max(0, 9 - number // 4)) for number in range(991)),
    ]
    facts: dict[str, object] = {
        "workers": [
            process(1),
            process(2),
            process(3, ago_s=400.0),
            process(4, not_ready="RabbitMQ blocks publishers"),
        ],
        "queues": queues,
        "keys": keys,
        "waits": sorted(waits, key=lambda wait: wait.due_in_s),
        "hour": summary(2140),
        "day": summary(48_211),
        "troubles": [],
    }
    return State(**{**facts, **changes})  # type: ignore[arg-type]


def page(
    look: Look = state,
    *,
    password: str | None = PASSWORD,
    place: Place = LOCAL,
    queues: Any = None,
    **others: Any,
) -> Starlette:
    """The page, with the dead letters of `queues`."""
    drawing = Drawing(has_password=password is not None)
    feed = Feed(look, drawing.pieces, lambda: None, every_s=0.05, patience_s=PATIENCE_S)
    sessions = Sessions(password) if password is not None else None
    live = Live(feed, drawing, sessions, first_look_s=PATIENCE_S)
    letters, door = LetterPages(drawing, Letters(queues)), Door(drawing, sessions, place)
    return application(live, letters, door, place=place, sessions=sessions, **others)
