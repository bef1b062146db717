"""`gemini failed`: list, show, redrive, drop and export dead letters."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from console.dead.letter import DeadLetter
from console.dead.queues import QUEUES, DeadQueues, HeldLetter
from console.screen import Json, give_up, print_json, screen, table, tell
from gateway import exits
from gateway.errors import PublishError
from gateway.settings import load_settings

COLUMNS = ("id", "kind", "request", "code", "tries", "last", "reason")

#: How much of an id a screen shows.
SHOWN = 8

#: How many letters of a queue are looked at, where nothing else is said.
MOST = 1000

failed = typer.Typer(help="Dead letters: list, show, send again, throw away, keep a copy.", no_args_is_help=False)

Id = Annotated[
    list[str] | None, typer.Option("--id", metavar="ID", help="Of the letter or of its request; may be repeated.")
]
Code = Annotated[str | None, typer.Option("--code", metavar="CODE", help="Every letter with this error code.")]
All = Annotated[bool, typer.Option("--all", help="Every letter.")]
Queue = Annotated[str | None, typer.Option("--queue", metavar="QUEUE", help=f"Only in {' or '.join(QUEUES)}.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Letters to look at in a queue.")]


@dataclass(frozen=True)
class Choice:
    """Which letters are meant."""

    ids: tuple[str, ...]
    code: str | None
    every: bool
    queue: str | None
    limit: int

    def has(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant; the first eight characters of its id are enough, as a screen shows them."""
        named = not letter.names.isdisjoint(self.ids) or letter.id[:SHOWN] in self.ids
        return (not self.ids or named) and (self.code is None or letter.facts["error_code"] == self.code)


def _choice(  # noqa: PLR0913 - options
    ids: list[str] | None, code: str | None, *, every: bool, queue: str | None, limit: int, required: bool = True
) -> Choice:
    given = sum((bool(ids), code is not None, every))
    if given > 1 or (required and not given):
        raise typer.BadParameter("say which letters: one of --id, --code and --all")
    if queue is not None and queue not in QUEUES:
        raise typer.BadParameter(f"--queue is {' or '.join(QUEUES)}")
    return Choice(tuple(ids or ()), code, every, queue, limit)


@failed.callback(invoke_without_command=True)
def default(  # noqa: PLR0913 - options
    context: typer.Context,
    *,
    ids: Id = None,
    code: Code = None,
    every: All = False,
    queue: Queue = None,
    limit: Limit = MOST,
    json_wanted: Json = False,
) -> None:
    """Dead letters: list, show, send again, throw away, keep a copy. Without a command: list, with its options."""
    if context.invoked_subcommand is None:
        list_letters(ids=ids, code=code, every=every, queue=queue, limit=limit, json_wanted=json_wanted)
    elif (
        ids or code or every or queue or json_wanted or limit != MOST
    ):  # a letter too many would go, were they not looked at
        raise typer.BadParameter(f"give options behind {context.invoked_subcommand}")


@failed.command("list")
def list_letters(  # noqa: PLR0913 - options
    *,
    ids: Id = None,
    code: Code = None,
    every: All = False,
    queue: Queue = None,
    limit: Limit = MOST,
    json_wanted: Json = False,
) -> None:
    """A line for each letter: what it is, why it is dead, since when."""
    choice = _choice(ids, code, every=every, queue=queue, limit=limit, required=False)
    with _dead_queues() as dead:
        letters = [held.letter.facts for held in _chosen(dead, choice)]
    if json_wanted:
        print_json({"letters": letters})
    elif letters and sys.stdout.isatty():
        screen().print(Group(*(_drawn(one) for one in letters)))
    elif letters:
        names = ("id", "kind", "request_id", "error_code", "attempts", "last", "reason")
        rows = [[one[name] for name in names] for one in letters]
        screen().print(table(COLUMNS, rows, right=("tries",)))
    else:
        tell("No dead letters.")


@failed.command()
def show(  # noqa: PLR0913 - options
    *,
    ids: Id = None,
    code: Code = None,
    every: All = False,
    queue: Queue = None,
    limit: Limit = MOST,
    body: Annotated[bool, typer.Option("--body", help="Also the body, with prompt or answer.")] = False,
) -> None:
    """All that is known of the chosen letters, as JSON; a body only when asked for."""
    _each(
        _choice(ids, code, every=every, queue=queue, limit=limit),
        lambda letter: letter.as_json() if body else letter.facts,
    )


@failed.command()
def export(*, ids: Id = None, code: Code = None, every: All = False, queue: Queue = None, limit: Limit = MOST) -> None:
    """The chosen letters as JSON lines, bodies included. They stay where they are."""
    _each(_choice(ids, code, every=every, queue=queue, limit=limit, required=False), DeadLetter.as_json)


@failed.command()
def redrive(  # noqa: PLR0913 - options
    *,
    ids: Id = None,
    code: Code = None,
    every: All = False,
    queue: Queue = None,
    limit: Limit = MOST,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this it is a dry run.")] = False,
    json_wanted: Json = False,
) -> None:
    """Send the chosen letters back to work, each removed when RabbitMQ has confirmed it. Dry without --yes."""
    choice = _choice(ids, code, every=every, queue=queue, limit=limit)
    went: list[dict[str, object]] = []
    with _dead_queues() as dead:
        for held in _chosen(dead, choice):
            try:
                target = dead.redrive(held, dry=not yes)
            except PublishError as error:
                text = f"{error}. {len(went)} went; {held.letter.id} and what follows stay."
                give_up(text, exits.NOTHING)
            went.append({"id": held.letter.id, "kind": held.letter.kind, "to": target})
            if not json_wanted:
                where = f"to {target}" if target else "stays: it is no message of ours"
                print(f"{held.letter.id}  {held.letter.kind}  {where}")
    if not went:
        give_up("Nothing matched.", exits.NOTHING)
    done = sum(one["to"] is not None for one in went)
    if json_wanted:
        print_json({"dry": not yes, "letters": went})
    else:
        print(f"{done} sent." if yes else f"A dry run: {done} would be sent. Add --yes to send them.")
    if not done or done < len(went):
        raise typer.Exit(exits.NOTHING)


@failed.command()
def drop(  # noqa: PLR0913 - options
    *,
    ids: Id = None,
    code: Code = None,
    every: All = False,
    queue: Queue = None,
    limit: Limit = MOST,
    count: Annotated[
        int | None, typer.Option("--count", help="How many they are, for a script that cannot be asked.")
    ] = None,
) -> None:
    """Remove the chosen letters for good, after somebody has typed how many they are."""
    choice = _choice(ids, code, every=every, queue=queue, limit=limit)
    with _dead_queues() as dead:
        found = [(held.tag, held.letter.facts) for held in _chosen(dead, choice)]
        if not found:
            give_up("Nothing matched.", exits.NOTHING)
        for _tag, facts in found:
            print(f"{facts['id']}  {facts['kind']}  {facts['reason']}")
        typed = count if count is not None else _ask("To drop these for good, type how many they are: ")
        if typed is None:
            give_up(f"Type {len(found)} to drop these, or give --count {len(found)}: nothing was dropped.", exits.USAGE)
        if typed != len(found):
            give_up(f"{typed} is not {len(found)}: nothing was dropped.", exits.NOTHING)
        for tag, _facts in found:
            dead.remove(tag)
    print(f"Dropped {len(found)}.")


def _drawn(letter: dict[str, Any]) -> Text:
    """Two lines for people: what it is, and why it is dead."""
    tries = letter["attempts"]
    facts = [letter["last"], f"{tries} {'try' if tries == 1 else 'tries'}" if tries else None]
    request = f"request {letter['request_id']}: " if letter["request_id"] else ""
    return Text.assemble(
        (letter["id"][:SHOWN].ljust(SHOWN + 2), "bold"),
        f"{letter['kind']}  ",
        (f"{letter['error_code'] or '-'}  ", "yellow"),
        ("  ".join(fact for fact in facts if fact), "dim"),
        f"\n{' ' * (SHOWN + 2)}{request}{letter['reason'] or 'no reason is known'}",
    )


def _each(choice: Choice, content: Callable[[DeadLetter], object]) -> None:
    found = 0
    with _dead_queues() as dead:
        for held in _chosen(dead, choice):
            print_json(content(held.letter))
            found += 1
    if not found:
        give_up("Nothing matched.", exits.NOTHING)


def _dead_queues() -> DeadQueues:
    return DeadQueues(load_settings(need_keys=False))


def _chosen(dead: DeadQueues, choice: Choice) -> Iterator[HeldLetter]:
    """The letters that are meant; says so when there are more than were looked at."""
    for queue in [choice.queue] if choice.queue else QUEUES:
        held = dead.count(queue)
        if held > choice.limit:
            tell(f"{queue} holds {held}, only the first {choice.limit} are looked at: see --limit.")
        yield from dead.letters(queue, choice.has, choice.limit)


def _ask(question: str) -> int | None:
    try:
        return int(input(question))
    except (ValueError, EOFError):
        return None
