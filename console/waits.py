"""`gemini waits`: who waits in which queue, until when, and why; run one now, or drop it."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from console.opened import opened, rabbitmq
from console.screen import Json, give_up, headline, number, print_json, screen, several, span, table
from console.state import QueueState, look, roles
from console.waiting import WaitingQueues
from gateway import exits
from gateway.reporting.redaction import escape_controls
from gateway.usage.store import Waiting

waits = typer.Typer(help="Who waits, until when and why; run one now, drop one.", no_args_is_help=False)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of requests.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Requests to look at in a queue.")]

#: How many requests of a queue are looked at, where nothing else is said.
MOST = 10_000


@waits.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many requests to show.")] = 20,
    json_wanted: Json = False,
) -> None:
    """Requests that wait for a key or for the provider: how many, until when, why.

    How many is what RabbitMQ says. Which ones is what workers have reported; nothing is taken out of a queue.
    """
    if context.invoked_subcommand is not None:
        return
    with opened() as here:
        known = here.stores.usage.waits()
        with rabbitmq(here.settings) as connection:
            queues = look(connection, here.settings, also=[wait.queue for wait in known])
    waiting = [queue for queue in queues if queue.role in {"key wait", "provider wait"}]
    if json_wanted:
        print_json({"queues": [_as_json(queue, known) for queue in waiting], "waits": [asdict(wait) for wait in known]})
        return
    _draw(waiting, known, limit)


@waits.command()
def run(ids: Ids, *, limit: Limit = MOST, json_wanted: Json = False) -> None:
    """Have requests worked on now, before others that wait. No retry is counted; without a free key they wait anew."""
    _send(ids, limit, dropped=False, dry=False, json_wanted=json_wanted)


@waits.command()
def drop(
    ids: Ids,
    *,
    limit: Limit = MOST,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is a dry run.")] = False,
    json_wanted: Json = False,
) -> None:
    """Call for these requests no more: a worker answers each with the error `cancelled`. Dry without --yes."""
    _send(ids, limit, dropped=True, dry=not yes, json_wanted=json_wanted)


def _send(ids: Sequence[str], limit: int, *, dropped: bool, dry: bool, json_wanted: bool) -> None:
    with opened() as here, WaitingQueues(here.settings) as held:
        also = [wait.queue for wait in here.stores.usage.waits()]
        queues = [name for name, role in roles(here.settings, also).items() if role in {"key wait", "provider wait"}]
        found = []
        for waiting in held.find(ids, queues, limit):
            if not dry:
                held.send(waiting, dropped=dropped)
            found.append(waiting)
    missing = [name for name in ids if not any(name in waiting.names for waiting in found)]
    if json_wanted:
        rows = [{"request_id": waiting.request_id, "from": waiting.queue} for waiting in found]
        print_json({"dry": dry, "dropped" if dropped else "run": rows, "not_found": missing})
    else:
        for waiting in found:
            what = "would be dropped" if dry else "is answered as cancelled" if dropped else "is worked on now"
            print(f"{waiting.request_id}  {what}, from {waiting.queue}")
        if found and dry:
            print(f"A dry run: {several(len(found), 'request')} would be dropped. Add --yes to drop them.")
    if missing:
        ids_ = ", ".join(escape_controls(name, 80) for name in missing)
        give_up(f"Not among those that wait: {ids_}. See `gemini waits`; a worker may have it just now.", exits.NOTHING)


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
