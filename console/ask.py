"""`gemini ask`: send a request as a backend does, show its way, print the answer."""

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from console.conversation import Conversation
from console.opened import Opened, opened
from console.screen import Json, dollars, give_up, print_json, span, tell
from gateway import exits

#: How often it is looked where a request is, in seconds.
LOOK_EVERY_S = 1.0

#: How many requests of a file are on their way at a time.
MOST_ON_THEIR_WAY = 100


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
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if isinstance(content, str):
            content = {"prompt": content}
        if not isinstance(content, dict):
            give_up(f"{file}, line {number}: give a JSON object, or a JSON string that is the prompt.", exits.USAGE)
        found.append(_request(content, model))
    return found


def _ask_one(here: Opened, request: dict[str, Any], timeout_s: float, *, json_wanted: bool) -> bool:
    """Whether the answer is a success."""
    say: Callable[[str], None] = (lambda _text: None) if json_wanted else tell
    _warn_without_workers(here)
    began = time.monotonic()
    with Conversation(here.settings) as talk:
        talk.send(request)
        say(f"-> {here.settings.request_queue}  request {request['request_id']}")
        way = _Way(here, request["request_id"], say)
        envelope = next(talk.answers(timeout_s, meanwhile=way.look, every_s=LOOK_EVERY_S), None)
        if envelope is None:
            talk.leave()
            give_up(
                f"No answer within {span(timeout_s)}. It is on its way still: see gemini status and gemini waits.",
                exits.NOTHING,
            )
    if json_wanted:
        print_json(envelope)
    else:
        say(f"<- {_told(envelope)}, {span(time.monotonic() - began)} after it was sent")
        print(envelope["content"] if envelope["status"] == "success" else envelope["error"])
    return bool(envelope["status"] == "success")


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
    with Conversation(here.settings) as talk, _bar() as bar:
        task = bar.add_task("answers", total=len(requests))
        waiting = iter(requests)
        for envelope in _answers(talk, waiting, timeout_s):
            print_json(envelope)
            came, good = came + 1, good + (envelope["status"] == "success")
            bar.update(task, completed=came)
        if came < len(requests):
            talk.leave()
    tell(f"{good} answered, {came - good} errors, {len(requests) - came} not within {span(timeout_s)}.")
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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))
