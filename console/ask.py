"""`gemini ask`: send a request as a backend does, show its way, print the answer."""

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from console.conversation import Conversation
from console.opened import Opened, opened
from console.screen import Json, as_line, dollars, give_up, print_json, several, span, tell
from gateway import exits

#: How often it is looked where a request is, in seconds.
LOOK_EVERY_S = 1.0

#: How many requests of a file are on their way at a time.
MOST_ON_THEIR_WAY = 100

#: What becomes of a request when nobody waits for its answer any more.
ON_ITS_WAY = "What was sent is on its way still, and is paid: see gemini status and gemini waits."


def ask(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - reads it from stdin.")] = None,
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Which model; the default is the worker's.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", exists=True, dir_okay=False, help="JSON lines: requests, or prompts as strings."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the next answer.")
    ] = 300.0,
    json_wanted: Json = False,
) -> None:
    """Publish a prompt to the workers, show its way, print the answer. The call is paid, like any other.

    With --file the envelopes are printed as JSON lines, as they come.

    Exit code 1 when an answer is an error, or has not come in time.
    """
    if (prompt is None) == (file is None):
        raise typer.BadParameter("give a prompt, or --file")
    with opened() as here:
        if file is not None:
            good = _ask_all(here, _requests(file, model), timeout_s)
        else:
            text = sys.stdin.read() if prompt == "-" else str(prompt)
            good = _ask_one(here, _request({"prompt": text}, model), timeout_s, json_wanted=json_wanted)
    if not good:
        raise typer.Exit(exits.NOTHING)


def _request(fields: dict[str, Any], model: str | None) -> dict[str, Any]:
    chosen = {"model": model} if model is not None else {}
    return {"request_id": str(uuid.uuid4()), **fields, **chosen}


def _requests(file: Path, model: str | None) -> list[dict[str, Any]]:
    """A request for each line. A line ends with a line feed and nothing else: a prompt may hold U+2028."""
    found = []
    for number, line in enumerate(_text(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, str):
            content = {"prompt": content}
        if not isinstance(content, dict):
            give_up(f"{file}, line {number}: give a JSON object, or a JSON string that is the prompt.", exits.USAGE)
        found.append(_request(content, model))
    if not found:
        give_up(f"{file} is empty: give a JSON object or a JSON string a line.", exits.USAGE)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        give_up(f"{file} is no text in UTF-8: save it as that.", exits.USAGE)
    except OSError as error:
        give_up(f"{file} cannot be read: {error.strerror}.", exits.USAGE)


def _ask_one(here: Opened, request: dict[str, Any], timeout_s: float, *, json_wanted: bool) -> bool:
    """Whether the answer is a success."""
    say: Callable[[str], None] = (lambda _text: None) if json_wanted else tell
    _warn_without_workers(here)
    began = time.monotonic()
    with Conversation(here.settings) as talk, _goes_on(talk):
        talk.send(request)
        say(f"-> {here.settings.request_queue}  request {request['request_id']}")
        way = _Way(here, request["request_id"], say)
        envelope = next(talk.answers(timeout_s, meanwhile=way.look, every_s=LOOK_EVERY_S), None)
        if envelope is None:
            talk.leave()
            give_up(f"No answer within {span(timeout_s)}. {ON_ITS_WAY}", exits.NOTHING)
    if json_wanted:
        print_json(envelope)
    else:
        say(f"<- {_told(envelope)}, {span(time.monotonic() - began)} after it was sent")
        print(envelope["content"] if envelope["status"] == "success" else envelope["error"])
    return bool(envelope["status"] == "success")


@contextmanager
def _goes_on(talk: Conversation) -> Iterator[None]:
    """Whoever ends it with Ctrl-C is told that what was sent is not ended by that."""
    try:
        yield
    except KeyboardInterrupt:
        talk.leave()
        give_up(f"Nobody waits for the answer any more. {ON_ITS_WAY}", exits.INTERRUPTED)


def _told(envelope: dict[str, Any]) -> str:
    if envelope["status"] != "success":
        return f"error {envelope.get('error_code')}"
    usage = envelope.get("usage", {})
    cost = f", {dollars(usage['cost'])}" if usage.get("cost") is not None else ""
    return f"answered by {envelope['model_used']} ({usage.get('total_tokens')} tokens{cost})"


def _warn_without_workers(here: Opened) -> None:
    if not any(seen.lives for seen in here.stores.usage.processes()):
        tell("No worker reports: the request waits until one runs. Start one (gemini run), or see gemini doctor.")


class _Way:
    """Says where the request waits, once for each wait that is known of it."""

    def __init__(self, here: Opened, request_id: str, say: Callable[[str], None]) -> None:
        self._here = here
        self._request_id = request_id
        self._say = say
        self._told: set[tuple[str, int]] = set()

    def look(self) -> None:
        for wait in self._here.stores.usage.waits():
            if wait.request_id == self._request_id and (wait.queue, wait.retry_count) not in self._told:
                self._told.add((wait.queue, wait.retry_count))
                self._say(f"   {wait.queue}  waits up to {span(wait.due_in_s)}: {wait.why}")


def _ask_all(here: Opened, requests: list[dict[str, Any]], timeout_s: float) -> bool:
    """Whether every answer is a success; envelopes go to stdout, the bar to stderr."""
    _warn_without_workers(here)
    came = good = 0
    with Conversation(here.settings) as talk, _goes_on(talk), _bar() as bar:
        task = bar.add_task("answers", total=len(requests))
        waiting = iter(requests)
        for envelope in _answers(talk, waiting, timeout_s):
            _print(envelope, bar)
            came, good = came + 1, good + (envelope["status"] == "success")
            bar.update(task, completed=came, refresh=True)
        if came < len(requests):
            talk.leave()
    tell(f"{good} answered, {several(came - good, 'error')}, {len(requests) - came} not within {span(timeout_s)}.")
    return good == len(requests)


def _answers(talk: Conversation, waiting: Iterator[dict[str, Any]], timeout_s: float) -> Iterator[dict[str, Any]]:
    """Envelopes, as they come; whenever one has come another request is sent."""
    on_their_way = 0
    for request in islice(waiting, MOST_ON_THEIR_WAY):
        talk.send(request)
        on_their_way += 1
    answers = talk.answers(timeout_s)
    while on_their_way and (envelope := next(answers, None)) is not None:
        on_their_way -= 1
        yield envelope
        for request in islice(waiting, 1):
            talk.send(request)
            on_their_way += 1


def _bar() -> Progress:
    """On stderr. Stdout is not its own: whole lines go there, wherever it leads."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False)


def _print(envelope: dict[str, Any], bar: Progress) -> None:
    """On stdout; above the bar where both are on one screen."""
    if sys.stdout.isatty() and bar.console.file.isatty():
        bar.console.print(as_line(envelope), soft_wrap=True, markup=False, highlight=False, emoji=False)
    else:
        print_json(envelope)
