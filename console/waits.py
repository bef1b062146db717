"""`gemini waits`: who waits in which queue, until when, and why."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from console.opened import opened, rabbitmq
from console.screen import Json, headline, number, print_json, screen, span, table
from console.state import QueueState, look
from gateway.usage.store import Waiting


def waits(
    *,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many requests to show.")] = 20,
    json_wanted: Json = False,
) -> None:
    """Requests that wait for a key or for the provider: how many, until when, why.

    How many is what RabbitMQ says. Which ones is what workers have reported; nothing is taken out of a queue.
    """
    with opened() as here:
        known = here.stores.usage.waits()
        with rabbitmq(here.settings) as connection:
            queues = look(connection, here.settings, also=[wait.queue for wait in known])
    waiting = [queue for queue in queues if queue.role in {"key wait", "provider wait"}]
    if json_wanted:
        print_json({"queues": [_as_json(queue, known) for queue in waiting], "waits": [asdict(wait) for wait in known]})
        return
    _draw(waiting, known, limit)


def _draw(queues: Sequence[QueueState], known: Sequence[Waiting], limit: int) -> None:
    out = screen()
    deep = [queue for queue in queues if queue.messages]
    if not deep:
        print("Nobody waits.")
        return
    rows = [_row(queue, _of(queue, known)) for queue in deep]
    out.print(table(("queue", "for", "waiting", "next", "last"), rows, right=("waiting", "next", "last")))
    if known and limit:
        shown = known[:limit]
        out.print()
        out.print(headline("Known requests", f"{len(shown)} of {len(known)}, the next one due first"))
        columns = ("request", "due in", "waits", "model", "why")
        lines = [(wait.request_id, span(wait.due_in_s), wait.retry_count, wait.model, wait.why) for wait in shown]
        out.print(table(columns, lines, right=("due in", "waits")))


def _row(queue: QueueState, known: Sequence[Waiting]) -> tuple[object, ...]:
    dues = [span(wait.due_in_s) for wait in (known[0], known[-1])] if known else ["", ""]
    what = "a key" if queue.role == "key wait" else "the provider"
    return queue.name, what, number(queue.messages or 0), *dues


def _of(queue: QueueState, known: Sequence[Waiting]) -> list[Waiting]:
    return [wait for wait in known if wait.queue == queue.name]


def _as_json(queue: QueueState, known: Sequence[Waiting]) -> dict[str, object]:
    dues = [round(wait.due_in_s, 1) for wait in _of(queue, known)]
    ends = {"next_due_in_s": dues[0] if dues else None, "last_due_in_s": dues[-1] if dues else None}
    return {**asdict(queue), "known": len(dues), **ends}
