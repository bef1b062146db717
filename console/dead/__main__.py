"""`python -m console.dead`: list, show, redrive, drop and export dead letters; see --help.

Exit codes: 0 done; 1 nothing matched, or not all could be done; 64 usage; 69 RabbitMQ is away or refuses; 78 settings.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from pika.exceptions import AMQPError

from console.dead.letter import DeadLetter
from console.dead.queues import QUEUES, DeadQueues, HeldLetter, gone
from gateway import exits
from gateway.errors import GatewayError, PublishError
from gateway.settings import SettingsError, load_settings

COLUMNS = ("queue", "id", "kind", "request_id", "error_code", "attempts", "first", "last", "reason")

Command = Callable[[DeadQueues, argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors are one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(need_keys=False)
        with DeadQueues(settings) as dead:
            command: Command = options.command
            return command(dead, options)
    except SettingsError as error:
        return _complain(str(error), exits.SETTINGS)
    except AMQPError as error:
        return _complain(str(gone(error)), exits.UNAVAILABLE)
    except GatewayError as error:
        return _complain(str(error), exits.UNAVAILABLE)


def list_letters(dead: DeadQueues, options: argparse.Namespace) -> int:
    """A line for each letter."""
    rows = [held.letter.facts for held in _chosen(dead, options)]
    if not rows:
        return _complain("No dead letters.", 0)
    shown = [[str(row[column] if row[column] is not None else "-") for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *shown, strict=True)]
    for row in [COLUMNS, *shown]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def show(dead: DeadQueues, options: argparse.Namespace) -> int:
    """All that is known of the chosen letters; their bodies only when asked for, since they hold prompts."""
    return _each(dead, options, lambda letter: letter.as_json() if options.body else letter.facts, indent=2)


def export(dead: DeadQueues, options: argparse.Namespace) -> int:
    """The chosen letters as JSON lines, bodies included. They stay where they are."""
    return _each(dead, options, DeadLetter.as_json, indent=None)


def redrive(dead: DeadQueues, options: argparse.Namespace) -> int:
    """Send the chosen letters back to work, each removed when RabbitMQ has confirmed it. Dry without --yes."""
    done = stuck = 0
    for held in _chosen(dead, options):
        try:
            queue = dead.redrive(held, dry=not options.yes)
        except PublishError as error:
            return _complain(f"{error}. {done} went; {held.letter.id} and what follows stay.", exits.NOTHING)
        done, stuck = done + (queue is not None), stuck + (queue is None)
        print(f"{held.letter.id}  {held.letter.kind}  {f'to {queue}' if queue else 'stays: it is no message of ours'}")
    print(f"{done} sent." if options.yes else f"A dry run: {done} would be sent. Add --yes to send them.")
    return 0 if done and not stuck else exits.NOTHING


def drop(dead: DeadQueues, options: argparse.Namespace) -> int:
    """Remove the chosen letters for good, after somebody has typed how many they are."""
    found = [(held.tag, held.letter.facts) for held in _chosen(dead, options)]
    if not found:
        return _complain("Nothing matched.", exits.NOTHING)
    for _tag, facts in found:
        print(f"{facts['id']}  {facts['kind']}  {facts['reason']}")
    typed = options.count if options.count is not None else _ask("To drop these for good, type how many they are: ")
    if typed != len(found):
        return _complain(f"{typed} is not {len(found)}: nothing was dropped.", exits.NOTHING)
    for tag, _facts in found:
        dead.remove(tag)
    print(f"Dropped {len(found)}.")
    return 0


def _each(
    dead: DeadQueues,
    options: argparse.Namespace,
    content: Callable[[DeadLetter], object],
    *,
    indent: int | None,
) -> int:
    found = 0
    for held in _chosen(dead, options):
        print(json.dumps(content(held.letter), ensure_ascii=False, indent=indent))
        found += 1
    return 0 if found else _complain("Nothing matched.", exits.NOTHING)


def _chosen(dead: DeadQueues, options: argparse.Namespace) -> Iterator[HeldLetter]:
    """The letters that the options ask for; says so when there are more than were looked at."""
    for queue in [options.queue] if options.queue else QUEUES:
        count = dead.count(queue)
        if count > options.limit:
            _complain(f"{queue} holds {count}, only the first {options.limit} are looked at: see --limit.", 0)
        yield from dead.letters(queue, lambda letter: _wanted(letter, options), options.limit)


def _wanted(letter: DeadLetter, options: argparse.Namespace) -> bool:
    return (not options.id or letter.id in options.id or letter.request_id in options.id) and (
        options.code is None or letter.facts["error_code"] == options.code
    )


def _ask(question: str) -> int | None:
    try:
        return int(input(question))
    except (ValueError, EOFError):
        return None


def _complain(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


COMMANDS: dict[str, Command] = {
    "list": list_letters,
    "show": show,
    "redrive": redrive,
    "drop": drop,
    "export": export,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> "None":  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(exits.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m console.dead", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip()
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=command)
        _add_choice(one, required=name in {"show", "redrive", "drop"})
        if name == "show":
            one.add_argument("--body", action="store_true", help="also the body, with prompt or answer")
        if name == "redrive":
            one.add_argument("--yes", action="store_true", help="do it; without this it is a dry run")
        if name == "drop":
            one.add_argument("--count", type=int, help="how many they are, for a script that cannot be asked")
    return parser


def _add_choice(parser: argparse.ArgumentParser, *, required: bool) -> None:
    choice = parser.add_mutually_exclusive_group(required=required)
    choice.add_argument("--id", action="append", default=[], help="of the letter or of its request; may be repeated")
    choice.add_argument("--code", help="every letter with this error code")
    choice.add_argument("--all", action="store_true", help="every letter")
    parser.add_argument("--queue", choices=QUEUES, help="look there only")
    parser.add_argument("--limit", type=int, default=1000, help="letters to look at in a queue (1000)")


if __name__ == "__main__":
    sys.exit(main())
