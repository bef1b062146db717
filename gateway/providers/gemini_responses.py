"""What the answers of Google's Gemini API mean.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/troubleshooting, and answers
captured in public issues.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from itertools import count as numbers
from typing import Any, Final

from gateway.bills import Bill
from gateway.errors import (
    AuthenticationFailed,
    ErrorCode,
    ProviderError,
    RateLimited,
    RequestRejected,
    Scope,
    UpstreamFailed,
)
from gateway.messages import Completion, Usage
from gateway.providers import bodies
from gateway.providers.candidates import (
    Piece,
    blocked,
    broken_off,
    chosen,
    is_odd,
    text_of,
    trouble,
    unreadable,
    unusable,
)
from gateway.providers.endings import ending_of_gemini
from gateway.providers.evidence import GIVEN_UP, KEY_INVALID, NOT_SERVED_HERE, PROMPT_TOO_LONG
from gateway.providers.hints import header_waits, in_words, longest, stated, until_midnight_pacific
from gateway.providers.responses import (
    MAX_READ_CHARS,
    Answer,
    Fault,
    Hide,
    Rule,
    code_of,
    is_meant,
    judge,
    spoiled,
    stranger,
)
from gateway.providers.tools import ToolCall, as_told
from gateway.providers.values import count, first_name, items, mapping, string

WHO: Final = "Gemini"

#: What a failed 200 counts as when its code says nothing.
_UNKNOWN: Final = HTTPStatus.BAD_GATEWAY

TABLE: Final[tuple[Rule, ...]] = (
    Rule(
        "a wrong key is told as a bad request",
        AuthenticationFailed,
        Scope.KEY,
        reason="api_key_invalid",
        sources=("API_KEY_INVALID",),
    ),
    Rule(
        "the same, with the details left out",
        AuthenticationFailed,
        Scope.KEY,
        reason="api_key_invalid",
        markers=KEY_INVALID,
        statuses={400},
    ),
    Rule(
        "the worker stands where Google does not serve: no key and no request is at fault",
        UpstreamFailed,
        reason="location",
        for_operator=True,
        markers=NOT_SERVED_HERE,
        statuses={400},
    ),
    Rule(
        "the prompt is too long for the model",
        RequestRejected,
        reason="prompt_too_long",
        says="the prompt is too long",
        markers=PROMPT_TOO_LONG,
        statuses={400, 413},
    ),
    Rule("no such model", RequestRejected, code=ErrorCode.MODEL_NOT_FOUND, statuses={404}),
    Rule("the key is not accepted, or may not do this", AuthenticationFailed, Scope.KEY, statuses={401, 403}),
    Rule("billing is off", AuthenticationFailed, Scope.ACCOUNT, statuses={402}),
    Rule("who serves the model, or stands before it, has given up: not our doing", UpstreamFailed, statuses=GIVEN_UP),
    Rule("a quota of the key's project is used up", RateLimited, Scope.KEY, statuses={429}),
    Rule("the request is at fault", RequestRejected, statuses=range(400, 500)),
    Rule("the provider is at fault", UpstreamFailed),
)

#: The reasons that a rule is about, whichever of the details tells it.
_CAUSES: Final = frozenset(source for rule in TABLE for source in rule.sources)


def classify_gemini(
    answer: Answer, *, asked: str, now: float, hide: Hide, with_tools: bool = False
) -> Completion | ProviderError:
    """The completion in `answer`, or the error that it means. Returned and never raised; pure.

    `asked` is the model that was asked for, `now` epoch seconds, `hide` takes secrets and the prompt out of a text.
    With `with_tools` the request offers tools, so that a call of one is an answer.
    """
    content = answer.content.unpacked("candidates")
    found = chosen(_pieces(content.objects, with_tools=with_tools))
    error = _error(content, beside=found if answer.is_success else None)
    if error is not None or not answer.is_success:
        return _failure(answer, error, now=now, hide=hide)
    if found is None:
        return _nothing(answer, content, now=now)
    bad = trouble(found, who=WHO, is_done=content.has_ended)
    return bad or _completion(content.objects, found, asked=asked)


def text_of_event(event: dict[str, Any]) -> str:
    """What one event of a stream adds to the text of the answer. Pure."""
    pieces = _pieces([bodies.unpacked(event, "candidates")], with_tools=False)
    return "".join(piece.text for piece in pieces if piece.index == 0)


def classify_gemini_key(answer: Answer, *, now: float, hide: Hide) -> ProviderError | None:
    """What an answer to `GET /v1beta/models` means for the key it was asked with; None where it is accepted. Pure."""
    content = answer.content
    error = _error(content)
    if error is not None or not answer.is_success:
        return _failure(answer, error, now=now, hide=hide)
    listed = any(isinstance(one.get("models"), list) for one in content.objects)
    return None if listed else stranger(WHO, answer, now=now)


def _error(content: bodies.Content, *, beside: Piece | None = None) -> Mapping[str, Any] | None:
    """The error object; `beside` an answer it is none that says nothing."""
    is_answered = beside is not None and beside.is_answer
    errors = (error for one in content.objects if (error := mapping(one.get("error"))))
    return next((error for error in errors if not is_answered or is_meant(error, _code(error))), None)


def _failure(answer: Answer, error: Mapping[str, Any] | None, *, now: float, hide: Hide) -> ProviderError:
    if error is None:
        return stranger(WHO, answer, now=now)
    message = string(error.get("message"))
    details = [mapping(detail) for detail in items(error.get("details"))]
    waits = [stated(detail.get("retryDelay"), now) for detail in details]
    waits += [*header_waits(answer.headers, now), in_words(hide(message[:MAX_READ_CHARS]))]
    if any("PerDay" in quota for detail in details for quota in _quotas(detail)):
        waits.append(until_midnight_pacific(now))
    causes = [string(detail.get("reason")) for detail in details if detail.get("reason")]
    fault = Fault(
        (_code(error) or _UNKNOWN) if answer.is_success else answer.status,
        message,
        source=next((cause for cause in causes if cause in _CAUSES), ""),
        signs=message.lower(),
        wait_s=longest(waits),
    )
    return judge(fault, TABLE, who=WHO, hide=hide)


def _code(error: Mapping[str, Any]) -> int | None:
    return code_of(error.get("code"), error.get("status"))


def _quotas(detail: Mapping[str, Any]) -> Iterator[str]:
    return (string(mapping(violation).get("quotaId")) for violation in items(detail.get("violations")))


def _nothing(answer: Answer, content: bodies.Content, *, now: float) -> ProviderError:
    """What a success without a candidate means."""
    if any(mapping(one.get("promptFeedback")).get("blockReason") for one in content.objects):
        return blocked(WHO)
    if _usage(content.objects).completion_tokens:
        return unreadable(WHO, "no text in any place that is known, and the bill for one")
    if any(not one or one.keys() & {"candidates", "usageMetadata", "modelVersion"} for one in content.objects):
        return unusable(WHO, "an empty text", reason="empty_answer")
    if not answer.body.strip():
        return unusable(WHO, "an empty body", reason="invalid_answer")
    if content.breaks_off:
        return broken_off(WHO)
    return spoiled(WHO, answer, content, field=b'"candidates"') or stranger(WHO, answer, now=now)


def _pieces(objects: list[dict[str, Any]], *, with_tools: bool) -> Iterator[Piece]:
    calls = numbers()  # none of them comes in pieces
    for content in objects:
        for position, candidate in enumerate(_candidates(content)):
            yield _piece(candidate, position, calls if with_tools else None)


def _candidates(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of one object; some servers give the candidate without a list, or candidates by their numbers."""
    given = content.get("candidates")
    if isinstance(given, dict):
        given = [given] if "content" in given else list(given.values())
    return [candidate for candidate in items(given) if isinstance(candidate, dict)]


def _piece(candidate: Mapping[str, Any], position: int, calls: Iterator[int] | None) -> Piece:
    inside = candidate.get("content")
    parts = mapping(inside).get("parts", inside) or candidate.get("text") or candidate.get("output")
    called = [mapping(part) for part in items(parts) if "functionCall" in mapping(part)]
    text = text_of(parts)
    number = count(candidate.get("index"))
    return Piece(
        position if number is None else number,
        text,
        ending_of_gemini(candidate.get("finishReason")),
        is_whole=False,  # a whole answer is a stream of one piece
        is_odd=not text and is_odd([part for part in items(parts) if mapping(part).get("thought") is not True]),
        calls_tool=bool(called),
        calls=tuple(_call(part, next(calls)) for part in called) if calls is not None else (),
    )


def _call(part: Mapping[str, Any], index: int) -> ToolCall:
    """With the signature that Gemini wants back, where its OpenAI-like API has it."""
    called = mapping(part.get("functionCall"))
    function = {"name": called.get("name"), "arguments": called.get("args") or {}}
    call = ToolCall.of({"id": called.get("id"), "function": function}, index=index)
    signature = string(part.get("thoughtSignature"))
    return replace(call, extra={"extra_content": {"google": {"thought_signature": signature}}}) if signature else call


def _completion(objects: list[dict[str, Any]], found: Piece, *, asked: str) -> Completion:
    return Completion(
        content=found.text,
        usage=_usage(objects),
        model_used=first_name(objects, "modelVersion") or asked,
        generation_id=first_name(objects, "responseId") or None,
        finish_reason=found.finish_reason,
        tool_calls=as_told(found.calls),
    )


def bill_of(answer: Answer, *, asked: str) -> Bill | None:
    """The tokens of an answer that is of no use; None where it says nothing of them. Google tells no price."""
    objects = answer.content.unpacked("candidates").objects
    usage = _usage(objects)
    if not (usage.prompt_tokens or usage.completion_tokens):
        return None
    generation_id = first_name(objects, "responseId") or None
    return usage.bill(model=first_name(objects, "modelVersion") or asked, generation_id=generation_id)


def _usage(objects: list[dict[str, Any]]) -> Usage:
    """What the last object that tells it tells: each of a stream counts what came before it, too."""
    usage = next((mapping(one.get("usageMetadata")) for one in reversed(objects) if one.get("usageMetadata")), {})
    prompt, thoughts = count(usage.get("promptTokenCount")) or 0, count(usage.get("thoughtsTokenCount"))
    completion = (count(usage.get("candidatesTokenCount")) or 0) + (thoughts or 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage.get("totalTokenCount")) or prompt + completion,
        reasoning_tokens=thoughts,
    )
