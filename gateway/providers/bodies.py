"""The JSON objects in a body, in whatever frame: one document, an event stream, a list, one object a line.

`stream: false` is not always heard: OpenRouter and gateways in front of it have answered with an event stream, with
comment lines before the document, and with `data: [DONE]` behind it.
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
https://github.com/openai/openai-go/issues/227 https://github.com/decolua/9router/issues/3492
"""

import codecs
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from gateway.providers.values import in_turns

#: What may stand between two objects: white space, brackets and commas of a list, comments, and fields of an event.
_EVENT: Final = re.compile(r"(?m)^data:")
_BETWEEN: Final = re.compile(r"(?:\s|[\[\],]|:[^\r\n]*|data:|(?:event|id|retry):[^\r\n]*)*")
_CHARSET: Final = re.compile(r"(?i)charset=[\"']?((?:iso-8859|windows-|latin)[\w-]{1,20})")
_DONE: Final = "[DONE]"
#: Where there is nothing between that need be looked for.
_ENDS_HERE: Final = (_DONE, "{")
#: More values than any stream has tokens: a bound on the work.
_MOST_VALUES: Final = 500_000
_DECODER: Final = json.JSONDecoder(
    strict=False,  # a line feed in a text that was not escaped
    parse_constant=lambda _constant: None,  # NaN in a number that nobody needs
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a body holds: its JSON objects in order.

    `is_whole` says that all of it was read; `is_done` that a stream has said that it ends there. `is_events`: it is an
    event stream.
    """

    objects: list[dict[str, Any]]
    is_whole: bool
    is_done: bool
    is_events: bool = False

    def unpacked(self, field: str) -> "Content":
        """With what has `field` in the place of an object around it: `{"code": 200, "data": {"choices": …}}`."""
        if all(field in one for one in self.objects):
            return self
        return replace(self, objects=[unpacked(one, field) for one in self.objects])

    @property
    def has_ended(self) -> bool:
        """Whether nothing is missing: a document is no stream."""
        return self.is_done or (self.is_whole and len(self.objects) == 1 and not self.is_events)

    @property
    def has_begun(self) -> bool:
        """Whether it is a stream that has said something beside an error."""
        return self.is_events and any("error" not in one for one in self.objects)

    @property
    def breaks_off(self) -> bool:
        """Whether it is a stream that was cut before its end."""
        return self.is_events and not (self.is_whole or self.is_done)


def unpacked(content: dict[str, Any], field: str) -> dict[str, Any]:
    """What has `field` in it: the object itself, or one that it is packed around."""
    if field in content:
        return content
    inside = (inner for inner in content.values() if isinstance(inner, dict) and field in inner)
    return next(inside, content)


def read(body: bytes, content_type: str = "") -> Content:
    """The JSON objects in `body`; none where it holds something else, however deep or broken."""
    text = _text(body, content_type)
    objects: list[dict[str, Any]] = []
    end = 0
    for value, end in in_turns(islice(_values(text), _MOST_VALUES)):  # noqa: B007 - where the last one ends
        if isinstance(value, dict):
            objects.append(value)
        elif isinstance(value, str) and value.lstrip().startswith("{"):  # JSON in JSON, as some gateways pack it
            objects += [inner for inner, _ in _values(value) if isinstance(inner, dict)]
    rest = text[end:]
    is_done = _DONE in rest
    rest = rest.replace(_DONE, "")
    is_whole = not rest or _skipped(rest, 0) == len(rest)
    is_events = _EVENT.search(text, 0, _skipped(text, 0)) is not None
    return Content(objects, is_whole, is_done=is_done, is_events=is_events)


def _values(text: str) -> Iterator[tuple[Any, int]]:
    at = _skipped(text, 0)
    while at < len(text):
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield value, end
        at = _skipped(text, end)


def _skipped(text: str, at: int) -> int:
    if text.startswith(_ENDS_HERE, at):
        return at
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _text(body: bytes, content_type: str) -> str:
    """In UTF-8 or what else JSON may be in, else in the stated character set.

    U+FFFD stands for what is no character: one broken byte is no reason to lose a text.
    """
    encoding = "utf-8-sig" if body.startswith(codecs.BOM_UTF8) else json.detect_encoding(body)
    with suppress(UnicodeDecodeError):
        return body.decode(encoding).removeprefix("\ufeff")
    stated = _CHARSET.search(content_type)
    with suppress(UnicodeDecodeError, LookupError):
        return body.decode(stated[1]) if stated else body.decode(encoding, "replace")
    return body.decode(encoding, "replace")
