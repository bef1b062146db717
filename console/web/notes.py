"""What an operator has to know first: the worst on top, in words that stay while only numbers change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from console.screen import several, span
from console.state import State
from console.web.feed import Snapshot
from console.web.rings import clock

Level = Literal["bad", "wait", "good"]


@dataclass(frozen=True)
class Note:
    """One line; `news` is what is read aloud when it appears, and has no numbers that change all the time."""

    level: Level
    text: str
    news: str


def notes(snapshot: Snapshot) -> list[Note]:
    """What is wrong, the worst first; one good line when nothing is."""
    state = snapshot.state
    if state is None:
        return [Note("wait", snapshot.trouble or "The figures are on their way.", "No figures yet.")]
    found = [*_of_the_figures(snapshot), *_of_workers(state), *_of_keys(state), *_of_queues(state)]
    return sorted(found, key=lambda note: note.level != "bad") or [Note("good", "All is well.", "All is well.")]


def _of_the_figures(snapshot: Snapshot) -> Iterator[Note]:
    """Since when they are old, and why."""
    at = snapshot.at or 0.0
    if snapshot.trouble is not None:
        yield Note("bad", f"Figures of {clock(at, at)}: {snapshot.trouble}", "The figures are old.")
    for trouble in snapshot.state.troubles if snapshot.state is not None else ():
        since = f"Queues as of {clock(snapshot.queues_at, at)}" if snapshot.queues_at else "Queues are not known"
        yield Note("bad", f"{since}: {trouble}", "RabbitMQ cannot be asked.")


def _of_workers(state: State) -> Iterator[Note]:
    if not state.living:
        yield Note("bad", "No worker reports: start one, or see gemini doctor.", "No worker reports.")
    gone = [seen for seen in state.workers if not seen.lives]
    if gone and state.living:
        since = span(min(seen.ago_s for seen in gone))
        text = f"Gone without a word: {len(gone)} of {len(state.workers)} processes, the latest {since} ago."
        yield Note("wait", text, "A worker process is gone.")
    unready = [seen for seen in state.workers if seen.lives and seen.process.not_ready is not None]
    if unready:
        yield Note("wait", f"{len(unready)} of {state.living} processes do no work now.", "A worker is not ready.")


def _of_keys(state: State) -> Iterator[Note]:
    counts = state.key_states()
    resting = sum(counts.get(kind, 0) for kind in ("refused", "invalid", "limited"))
    if not resting:
        return
    if resting == len(state.keys):
        yield Note("bad", f"Every key rests; the first is back in {_first(state)}.", "Every key rests.")
    else:
        yield Note("wait", f"{resting} of {several(len(state.keys), 'key')} at rest.", "A key rests.")


def _first(state: State) -> str:
    return span(min(key.back_in_s for key in state.keys))


#: What lies where it should not: role, level, name, what that means.
LYING: Sequence[tuple[str, Level, str, str]] = (
    ("dead", "bad", "dead letter", "somebody has to look"),
    ("callbacks", "wait", "held answer", "refused by their queue"),
)


def _of_queues(state: State) -> Iterator[Note]:
    for role, level, name, meaning in LYING:
        count = state.messages(role)  # type: ignore[arg-type]
        if count:
            yield Note(level, f"{several(count, name)}: {meaning}.", f"There are {name}s: {meaning}.")
    missing = [queue.name for queue in state.queues or () if queue.role == "requests" and queue.messages is None]
    if missing:
        text = f"The queue {missing[0]} does not exist: a worker makes it."
        yield Note("wait", text, "The request queue is missing.")
