"""From the candidates of an answer that was paid for to its text or calls of tools, or to why there are none. Pure.

A provider's module finds the pieces: of a whole answer there is one a candidate, of a stream many.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import Any, Final

from gateway.errors import ErrorCode, ProviderError, RequestRejected, UpstreamFailed
from gateway.providers.endings import Ending
from gateway.providers.tools import ToolCall, joined
from gateway.providers.values import in_turns, items, mapping, string

#: Parts of a content that are no part of the answer.
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning", "thought"})

#: How deep in a content a text is looked for; deeper there is none of a known form.
_DEEPEST: Final = 20


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the candidate number `index`.

    `is_whole` marks all of its text, as against a piece of a stream. `is_odd`: there is content, in no form we know.
    `calls_tool`: the model calls one, offered or not; `calls` are those of a request that offers tools.
    """

    index: int
    text: str
    ending: Ending | None
    is_whole: bool
    is_refused: bool = False
    is_odd: bool = False
    calls_tool: bool = False
    calls: tuple[ToolCall, ...] = ()

    @property
    def is_answer(self) -> bool:
        return bool(self.text.strip() or self.calls)

    @property
    def finish_reason(self) -> Ending | None:
        """Why the model stopped; Gemini has no word of its own for a call."""
        return Ending.TOOL_CALLS if self.calls and self.ending is not Ending.LENGTH else self.ending


def chosen(pieces: Iterable[Piece]) -> Piece | None:
    """The first candidate that is an answer which no filter has touched, else the first; None where there is none."""
    by_index: dict[int, list[Piece]] = {}
    for piece in in_turns(pieces):
        by_index.setdefault(piece.index, []).append(piece)
    candidates = [_joined(index, found) for index, found in sorted(by_index.items())]
    usable = (one for one in candidates if one.is_answer and one.ending is not Ending.CONTENT_FILTER)
    return next(usable, candidates[0] if candidates else None)


def _joined(index: int, pieces: list[Piece]) -> Piece:
    if len(pieces) == 1 and not pieces[0].calls:
        return pieces[0]  # as a rule
    whole = [piece for piece in pieces if piece.is_whole and piece.text]
    whole_calls = [piece.calls for piece in pieces if piece.is_whole and piece.calls]
    endings = [piece.ending for piece in pieces if piece.ending is not None]
    return Piece(
        index,
        whole[-1].text if whole else "".join(piece.text for piece in pieces),
        endings[-1] if endings else None,
        is_whole=any(piece.is_whole for piece in pieces),
        is_refused=any(piece.is_refused for piece in pieces),
        is_odd=any(piece.is_odd for piece in pieces),
        calls_tool=any(piece.calls_tool for piece in pieces),
        calls=joined(whole_calls[-1] if whole_calls else chain.from_iterable(piece.calls for piece in pieces)),
    )


def trouble(candidate: Piece, *, who: str, is_done: bool) -> ProviderError | None:
    """Why `candidate` is no answer; None when it is one. `is_done`: its stream has come to an end."""
    if candidate.ending is Ending.CONTENT_FILTER or (candidate.is_refused and not candidate.is_answer):
        return blocked(who)
    if candidate.is_answer:
        breaks_off = not (candidate.is_whole or is_done or candidate.ending)
        return broken_off(who) if breaks_off else None
    if candidate.calls_tool or candidate.ending is Ending.TOOL_CALLS:
        return unreadable(who, "a call of a tool in place of a text", reason="tool_call")
    if candidate.ending is Ending.LENGTH:
        return exhausted(who)
    if candidate.is_odd:
        return unreadable(who, "content in a form that is not known")
    return unusable(who, "an empty text", reason="empty_answer")


def text_of(content: object, depth: int = _DEEPEST) -> str:
    """The text in a `content`: a string, a part, or a list of these. Thoughts are left out."""
    if depth == 0:
        return ""
    if isinstance(content, list):
        return "".join(text_of(part, depth - 1) for part in content)
    if isinstance(content, str):
        return string(content)
    part = mapping(content)
    if string(part.get("type")) in _THOUGHTS or part.get("thought") is True:
        return ""
    inner = part.get("text", part.get("value", part.get("content")))
    return text_of(inner, depth - 1) if isinstance(inner, dict | list) else string(inner)


def is_refusal(content: object) -> bool:
    """Whether the list of parts holds a refusal."""
    return any(mapping(part).get("refusal") for part in items(content))


def is_odd(content: object, depth: int = _DEEPEST) -> bool:
    """Whether there is something, and no text in it that we can find."""
    if depth == 0:
        return True
    if isinstance(content, list):
        return any(is_odd(part, depth - 1) for part in content)
    if content is None or isinstance(content, str):
        return False
    part: Any = mapping(content)
    known = {"text", "refusal", "thinking", "reasoning", "data", "thought", "thoughtSignature"} & set(part)
    return not known and bool(content)


def blocked(who: str) -> RequestRejected:
    """The provider's filter withheld the answer: final."""
    text = f"{who} withheld the answer: blocked by a content filter"
    return RequestRejected(text, reason="content_blocked", code=ErrorCode.CONTENT_BLOCKED, status=HTTPStatus.OK)


def exhausted(who: str) -> RequestRejected:
    """The cap on output tokens was used up before the first word of an answer: final."""
    text = f"{who} returned no text: reasoning used up max_output_tokens"
    return RequestRejected(text, reason="output_exhausted", code=ErrorCode.OUTPUT_EXHAUSTED, status=HTTPStatus.OK)


def unusable(who: str, what: str, *, reason: str) -> UpstreamFailed:
    """A success in name only: the provider's fault, worth another try."""
    return UpstreamFailed(f"{who} answered 200 with {what}", reason=reason, status=HTTPStatus.OK)


def broken_off(who: str) -> UpstreamFailed:
    """A stream that has ended before its end: half an answer is none."""
    return unusable(who, "a stream that breaks off", reason="broken_answer")


def unreadable(who: str, what: str, *, reason: str = "unreadable_answer") -> RequestRejected:
    """An answer that was paid for and cannot be read: final, for another one would be paid for and be the same."""
    text = f"{who} answered 200 with {what}; it is not asked again, for the answer is paid for"
    rejected = RequestRejected(text, reason=reason, code=ErrorCode.UPSTREAM, status=HTTPStatus.OK)
    rejected.may_be_billed = True
    return rejected
