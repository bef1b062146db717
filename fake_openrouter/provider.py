"""What the two providers' forms have in common."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from starlette.requests import Request

from fake_openrouter.limits import Refusal
from fake_openrouter.script import Behaviour

#: What OpenRouter begins a stream with, and sends while it waits.
PROCESSING = b": OPENROUTER PROCESSING\n\n"


class NotUnderstood(Exception):
    """The body is no question to a model; the text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a call asks: `prompt` is the last message of the user, `text` all messages, `streams` for events."""

    model: str
    prompt: str
    text: str
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, before any fault of the wire. `headers` do not state a length; `cost` is in dollars.

    One that is streamed has the `events` of its body, and the `fault` with which the provider may end it.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cost: float | None = None
    events: tuple[bytes, ...] = ()
    fault: bytes = b""


class Provider(Protocol):
    """One API's way to be asked and to answer."""

    def key(self, request: Request) -> str:
        """The caller's key; empty when there is none."""

    def question(self, request: Request, body: Any) -> Question:
        """Raises NotUnderstood."""

    def answer(self, question: Question, behaviour: Behaviour) -> Answer: ...

    def error(self, status: int, message: str | None = None) -> Answer:
        """The error of this status, in this API's form."""

    def limited(self, refusal: Refusal) -> Answer: ...


def as_json(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})


def as_events(events: Sequence[bytes], fault: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    stated = {"Content-Type": "text/event-stream", **(headers or {})}
    return Answer(200, b"".join(events), stated, events=tuple(events), fault=fault)


def event(content: Any) -> bytes:
    """One event of a stream; `content` is JSON, or a text as it is."""
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n".encode()


def words(text: str) -> list[str]:
    """The pieces in which a model says a text; there is one at least."""
    return re.findall(r"\S*\s*", text)[:-1] or [text]


def reply(provider: Provider, question: Question, behaviour: Behaviour) -> Answer:
    """The answer that a behaviour asks for: its own body before an error before an ordinary answer."""
    found = _plain(provider, question, behaviour)
    return replace(found, headers={**found.headers, **behaviour.headers})


def _plain(provider: Provider, question: Question, behaviour: Behaviour) -> Answer:
    status = behaviour.status or 200
    if behaviour.redirect is not None:
        return Answer(behaviour.status or 307, b"", {"Location": behaviour.redirect})
    if behaviour.invalid_json or behaviour.body_base64 is not None:
        spoiled = b'{"choices": [' if behaviour.body_base64 is None else base64.b64decode(behaviour.body_base64)
        return Answer(status, spoiled, {"Content-Type": "application/json"})
    if isinstance(behaviour.body, str):
        return Answer(status, behaviour.body.encode(), {"Content-Type": "text/plain; charset=utf-8"})
    if behaviour.body is not None:
        return as_json(status, behaviour.body)
    if status >= 400 and behaviour.error_in_200 is None:
        return provider.error(status)
    return provider.answer(question, behaviour)


def said(question: Question, behaviour: Behaviour) -> str:
    """The text of an answer: from the prompt, so that answers are told apart."""
    if behaviour.huge is not None:
        return "x" * behaviour.huge
    return f"You asked: {question.prompt}"


def count(text: str) -> int:
    """Tokens, near enough: four characters each, one at least."""
    return max(1, len(text) // 4)
