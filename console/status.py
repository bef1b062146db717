"""`gemini status`: the whole on one screen."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from console.figures import Figures, Summary
from console.key_doctor import Finding
from console.opened import opened
from console.screen import Json, dollars, headline, number, print_json, screen, several, span, table, told
from console.state import QueueState, State, build
from gateway import exits
from gateway.usage.store import Seen

#: How often a watched screen is drawn anew, in seconds.
WATCH_EVERY_S = 2.0

#: Of how many workers and resting keys there are lines.
MOST_LINES = 8


def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Draw it again every 2 s, until Ctrl-C.")] = False,
    json_wanted: Json = False,
) -> None:
    """Workers, queues, keys and the last hour, on one screen.

    Exit code 1 when no worker reports, 69 when RabbitMQ or the store is away.
    """
    with opened() as here:
        if watch:
            _watch(lambda: build(here), json_wanted=json_wanted)
            return
        state = build(here)
    _show(state, json_wanted=json_wanted)
    if state.queues is None:
        raise typer.Exit(exits.UNAVAILABLE)
    if not state.living:
        raise typer.Exit(exits.NOTHING)


def _show(state: State, *, json_wanted: bool) -> None:
    if json_wanted:
        print_json(state.as_json())
    else:
        screen().print(drawn(state))
        sys.stdout.flush()  # a pipe has a reader, too


def _watch(look: Callable[[], State], *, json_wanted: bool) -> None:
    """A screen that is drawn again; for a pipe, or as JSON, one state behind the other."""
    while json_wanted or not sys.stdout.isatty():
        _show(look(), json_wanted=json_wanted)
        time.sleep(WATCH_EVERY_S)
    with Live(drawn(look()), console=screen(), auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(WATCH_EVERY_S)
            live.update(drawn(look()), refresh=True)


def drawn(state: State) -> RenderableType:
    return Group(*_parts(state))


def _parts(state: State) -> Iterator[RenderableType]:
    for trouble in state.troubles:
        yield Text(trouble, style="red")
    yield headline("Workers", "" if state.living else "none reports: start one (gemini run), or see gemini doctor")
    if state.workers:
        yield _workers(state.workers)
    if state.queues is not None:
        yield Text()
        yield headline("Queues")
        yield _queues(state.queues)
    yield Text()
    yield headline("Keys", told(state.key_states()) or "none is set here")
    if resting := [key for key in state.keys if key.reason is not None]:
        yield _resting(resting)
    yield Text()
    yield headline("Came out")
    yield _summaries({"last hour": state.hour, "last day": state.day})
    yield from _next_steps(state)


def _workers(workers: Sequence[Seen]) -> RenderableType:
    columns = ("host", "pid", "version", "up", "in flight", "state", "why")
    rows = [_worker(seen) for seen in workers[:MOST_LINES]]
    more = [("", "", "", "", "", f"and {len(workers) - MOST_LINES} more", "")] if len(workers) > MOST_LINES else []
    return table(columns, [*rows, *more], right=("pid", "up", "in flight"))


def _worker(seen: Seen) -> tuple[object, ...]:
    process = seen.process
    up = span(max(0.0, time.time() - process.started_at))
    flight = f"{process.in_flight}/{process.threads}"
    if not seen.lives:
        return process.host, process.pid, process.version, "", "", "gone", f"no report for {span(seen.ago_s)}"
    state = "ready" if process.not_ready is None else "not ready"
    return process.host, process.pid, process.version, up, flight, state, process.not_ready


def _queues(queues: Sequence[QueueState]) -> RenderableType:
    """Those where something lies, and those that always matter."""
    shown = [queue for queue in queues if queue.messages or queue.role in {"requests", "work", "answers"}]
    rows = [
        (queue.name, queue.role, "missing" if queue.messages is None else number(queue.messages), queue.consumers)
        for queue in shown
    ]
    return table(("queue", "holds", "ready", "consumers"), rows, right=("ready", "consumers"))


def _resting(keys: Sequence[Finding]) -> RenderableType:
    rows = [(key.key, key.label, key.state, key.reason, span(key.back_in_s)) for key in keys[:MOST_LINES]]
    more = [(f"and {len(keys) - MOST_LINES} more", "", "", "", "")] if len(keys) > MOST_LINES else []
    return table(("key", "label", "state", "reason", "back in"), [*rows, *more], right=("back in",))


def _summaries(summaries: dict[str, Summary]) -> RenderableType:
    columns = ("time", "calls", "failed", "tokens in", "tokens out", "cost", "half in", "95 % in")
    shown = {_outcomes(one): name for name, one in reversed(summaries.items()) if one.outcomes}  # equal ones once
    outcomes = [Text(f"{name}: {text}") for text, name in reversed(shown.items())]
    rows = [(name, *_calls(one.calls)) for name, one in summaries.items()]
    return Group(table(columns, rows, right=columns[1:]), *outcomes)


def _outcomes(one: Summary) -> str:
    return told(one.outcomes) + (f"; errors: {told(one.errors)}" if one.errors else "")


def _calls(calls: Figures) -> tuple[str, ...]:
    within = [span(end) if (end := calls.within_s(share)) is not None else "" for share in (0.5, 0.95)]
    numbers = (calls.calls, calls.failed, calls.prompt_tokens, calls.completion_tokens)
    return (*map(number, numbers), dollars(calls.cost), *within)


def _next_steps(state: State) -> Iterator[Text]:
    """What an operator types next."""
    waits = state.messages("key wait", "provider wait")
    steps = [
        (state.messages("dead"), "dead letter", "gemini failed"),
        (waits, "waiting request", "gemini waits"),
        (state.messages("callbacks"), "answer that its queue has refused", "gemini doctor"),
    ]
    lines = [(several(count, name), command) for count, name, command in steps if count]
    if lines:
        yield Text()
    for what, command in lines:
        yield Text.assemble((what, "yellow"), ": ", command)
