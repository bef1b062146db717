"""From OpenRouter's answers to a completion, a key's facts, the models, or an error.

Sources: https://openrouter.ai/docs/api-reference/overview, https://openrouter.ai/docs/api-reference/errors, and answers
captured in public issues.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from gateway.bills import Bill
from gateway.errors import CallTooLarge, ProviderError
from gateway.messages import Completion, Usage
from gateway.providers import bodies
from gateway.providers.candidates import (
    Piece,
    broken_off,
    chosen,
    is_odd,
    is_refusal,
    text_of,
    trouble,
    unreadable,
    unusable,
)
from gateway.providers.endings import ending
from gateway.providers.hints import header_waits, in_words, longest, stated
from gateway.providers.openrouter_rules import KEY_LIMIT, TABLE
from gateway.providers.responses import (
    MAX_READ_CHARS,
    Answer,
    Fault,
    Hide,
    code_of,
    is_meant,
    judge,
    spoiled,
    stranger,
)
from gateway.providers.tools import ToolCall, as_told
from gateway.providers.values import amount, as_json, count, first_name, items, mapping, name, number, string

WHO: Final = "OpenRouter"

#: What a failed 200 counts as when its code says nothing.
_UNKNOWN: Final = HTTPStatus.BAD_GATEWAY
#: Where a choice has what was said: a message, a piece of a stream, a text of the older completions.
_SAID: Final = ("message", "delta", "text")
_CONTENTS: Final = ("content", "tool_calls", "function_call", "refusal")
_AFFORDABLE: Final = re.compile(r"can only afford ([\d,]{1,12})")


def classify_openrouter(
    answer: Answer, *, asked: str, now: float, hide: Hide, with_tools: bool = False
) -> Completion | ProviderError:
    """The completion in `answer`, or the error that it means. Returned and never raised; pure.

    `asked` is the model that was asked for, `now` epoch seconds, `hide` takes secrets and the prompt out of a text.
    With `with_tools` the request offers tools, so that a call of one is an answer.
    """
    content = answer.content.unpacked("choices")
    failed = _failed_choices(content.objects)
    pieces = _pieces(content.objects, with_tools=with_tools)
    found = chosen(piece for piece in pieces if piece.index not in failed)
    error = _error(answer, content.objects, beside=found)
    if error is not None or not answer.is_success:
        return _failure(answer, error, now=now, hide=hide)
    if found is None:
        return _nothing(answer, content, now=now)
    bad = trouble(found, who=WHO, is_done=content.has_ended)
    return bad or _completion(content.objects, found, asked=asked, generation_id=answer.header("X-Generation-Id"))


def bill_of(answer: Answer, *, asked: str) -> Bill | None:
    """What an answer has cost that is of no use; None where it says nothing of it."""
    objects = answer.content.unpacked("choices").objects
    usage, generation_id = _usage(objects), name(answer.header("X-Generation-Id")) or first_name(objects, "id")
    if not (usage.cost or usage.prompt_tokens or usage.completion_tokens):
        return None
    return usage.bill(model=first_name(objects, "model") or asked, generation_id=generation_id)


def text_of_event(event: dict[str, Any]) -> str:
    """What one event of a stream adds to the text of the answer. Pure."""
    pieces = _pieces([bodies.unpacked(event, "choices")], with_tools=False)
    return "".join(piece.text for piece in pieces if piece.index == 0 and not piece.is_whole)


def _error(answer: Answer, objects: list[dict[str, Any]], *, beside: Piece | None = None) -> Mapping[str, Any] | None:
    """The provider's error object, wherever it stands; None where there is none.

    `beside` an answer it is none that says nothing, and none that is about another choice.
    """
    is_answered = answer.is_success and beside is not None and beside.is_answer
    for content in objects:
        error = mapping(content.get("error"))
        if error and (not is_answered or is_meant(error, _code(error))):
            return error
        failed = next((failure for choice in _choices(content) if (failure := _failure_of(choice)) is not None), None)
        if failed is not None and not is_answered:
            return failed
    return _bare_error(answer, objects)


def _failed_choices(objects: list[dict[str, Any]]) -> set[int]:
    """The numbers of those that have ended in an error."""
    numbered = (one for content in objects for one in enumerate(_choices(content)))
    return {
        _number(choice, position)
        for position, choice in numbered
        if (error := _failure_of(choice)) is not None
        and (choice.get("finish_reason") == "error" or is_meant(error, _code(error)))
    }


def _failure_of(choice: Mapping[str, Any]) -> Mapping[str, Any] | None:
    error = mapping(choice.get("error"))
    return error if error or choice.get("finish_reason") == "error" else None


def _bare_error(answer: Answer, objects: list[dict[str, Any]]) -> Mapping[str, Any] | None:
    """An error object without its frame, `{"code": 429, "message": …}`.

    Other servers, too, say `{"code": 404, "message": …}`: it is believed where it is about nothing that is final.
    """
    if not (answer.is_success or answer.status == HTTPStatus.TOO_MANY_REQUESTS):
        return None
    return next((one for one in objects if isinstance(one.get("message"), str) and _code(one)), None)


def _failure(answer: Answer, error: Mapping[str, Any] | None, *, now: float, hide: Hide) -> ProviderError:
    if error is None:
        return stranger(WHO, answer, now=now)
    metadata = mapping(error.get("metadata"))
    message, raw = string(error.get("message")), _raw(metadata, hide)
    mirrored = mapping(metadata.get("headers"))
    waits = [*header_waits(answer.headers, now), *header_waits(mirrored, now), stated(metadata.get("resets_at"), now)]
    waits += [in_words(hide(message[:MAX_READ_CHARS])), in_words(raw)]
    fault = Fault(
        (_code(error) or _UNKNOWN) if answer.is_success else answer.status,
        message,
        source=string(metadata.get("limit_source")) or _source_in_words(message),
        signs=_signs(error, metadata),
        raw=raw,
        from_provider=bool(metadata.get("provider_name")),
        wait_s=longest(waits),
    )
    failed = judge(fault, TABLE, who=WHO, hide=hide)
    if isinstance(failed, CallTooLarge):
        failed.is_of_key = fault.source == KEY_LIMIT
        if affordable := _AFFORDABLE.search(message):
            failed.affordable_tokens = count(affordable[1].replace(",", ""))
    return failed


def _source_in_words(message: str) -> str:
    """The source of a limit as a call that is too dear has it: by the page on which that is raised."""
    return KEY_LIMIT if "can only afford" in message and "settings/keys" in message else ""


def _raw(metadata: Mapping[str, Any], hide: Hide) -> str:
    """The words of the model's provider, to look for evidence in and never to pass on; without those of the prompt."""
    raw = metadata.get("raw")
    text = raw if isinstance(raw, str) else as_json(raw) if raw else ""
    return hide(text[:MAX_READ_CHARS]).lower()


def _signs(error: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    told = [
        error.get("message"),
        error.get("code"),
        error.get("type"),
        metadata.get("error_type"),
        metadata.get("reason"),
    ]
    present = [f"metadata.{field}" for field in ("reasons", "flagged_input") if metadata.get(field)]
    return " ".join([*(string(one) for one in told), *present]).lower()


def _code(error: Mapping[str, Any]) -> int | None:
    """The status that the error stands for; None where it says nothing of the kind."""
    told = mapping(error.get("metadata")).get("error_type")
    return code_of(error.get("code"), error.get("type"), error.get("status"), told)


def _nothing(answer: Answer, content: bodies.Content, *, now: float) -> ProviderError:
    """What a success without a candidate means."""
    if _usage(content.objects).completion_tokens:
        return unreadable(WHO, "no text in any place that is known, and the bill for one")
    if any("choices" in one for one in content.objects):
        return unusable(WHO, "an empty text", reason="empty_answer")
    if not answer.body.strip():
        return unusable(WHO, "an empty body", reason="invalid_answer")
    if content.breaks_off:
        return broken_off(WHO)
    return spoiled(WHO, answer, content, field=b'"choices"') or stranger(WHO, answer, now=now)


def _choices(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of one object; some servers give the choice without a list, choices by their numbers, or texts."""
    given = content.get("choices")
    if isinstance(given, dict):
        given = [given] if given.keys() & _SAID else list(given.values())
    found = [{"text": choice} if isinstance(choice, str) else choice for choice in items(given)]
    return [choice for choice in found if isinstance(choice, dict)]


def _pieces(objects: list[dict[str, Any]], *, with_tools: bool) -> Iterator[Piece]:
    for content in objects:
        for position, choice in enumerate(_choices(content)):
            yield _piece(choice, position, with_tools=with_tools)


def _number(choice: Mapping[str, Any], position: int) -> int:
    number = count(choice.get("index"))
    return position if number is None else number


def _piece(choice: Mapping[str, Any], position: int, *, with_tools: bool) -> Piece:
    place = next((place for place in _SAID if _says(choice.get(place))), "message")
    said = choice.get(place)
    message = mapping(said)
    content = message.get("content") or choice.get("text") if message else said
    is_whole = place == "message" and "message" in choice
    return Piece(
        _number(choice, position),
        text_of(content),
        ending(choice.get("finish_reason"), choice.get("native_finish_reason")),
        is_whole,
        is_refused=bool(message.get("refusal")) or is_refusal(content),
        is_odd=is_odd(content),
        calls_tool=bool(message.get("tool_calls") or message.get("function_call")),
        calls=_calls(message, is_whole=is_whole) if with_tools else (),
    )


def _says(said: object) -> bool:
    """Whether a message, or what stands in its place, holds more than its role."""
    message = mapping(said)
    return any(message.get(field) for field in _CONTENTS) if message else bool(said)


def _calls(message: Mapping[str, Any], *, is_whole: bool) -> tuple[ToolCall, ...]:
    """Those of a message, or pieces of them in a stream; `function_call` is the older form, of one call."""
    older = mapping(message.get("function_call"))
    given = [mapping(call) for call in items(message.get("tool_calls"))] or ([{"function": older}] if older else [])
    numbers = [None if is_whole else count(call.get("index")) for call in given]
    return tuple(
        ToolCall.of(call, index=position if index is None else index)
        for position, (call, index) in enumerate(zip(given, numbers, strict=True))
    )


def _completion(objects: list[dict[str, Any]], found: Piece, *, asked: str, generation_id: str | None) -> Completion:
    return Completion(
        content=found.text,
        usage=_usage(objects),
        model_used=first_name(objects, "model") or asked,
        generation_id=name(generation_id) or first_name(objects, "id") or None,
        finish_reason=found.finish_reason,
        tool_calls=as_told(found.calls),
    )


def _usage(objects: list[dict[str, Any]]) -> Usage:
    """What the last object that tells it tells: a stream has it at its end."""
    usage = next((mapping(one.get("usage")) for one in reversed(objects) if mapping(one.get("usage"))), {})
    prompt = count(usage.get("prompt_tokens", usage.get("input_tokens"))) or 0
    completion = count(usage.get("completion_tokens", usage.get("output_tokens"))) or 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage.get("total_tokens")) or prompt + completion,
        cost=amount(usage.get("cost")),
        reasoning_tokens=count(mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What `GET /key` tells about a key. None: not told, or no limit.

    `limit_remaining` is in credits (US dollars), and below zero where the last call has cost more than there was.

    `manages` is True of a key that makes and ends other keys, and cannot make calls:
    https://openrouter.ai/docs/features/provisioning-api-keys
    """

    limit_remaining: float | None
    creator_user_id: str | None = field(repr=False)
    expires_at: str | None
    manages: bool = False


def classify_key(answer: Answer, *, now: float, hide: Hide) -> KeyInfo | ProviderError:
    """The facts in an answer to `GET /key`, or the error that it means. Returned and never raised; pure."""
    content = answer.content.objects
    if not answer.is_success:
        return _failure(answer, _error(answer, content), now=now, hide=hide)
    if not content or not isinstance(content[0].get("data"), dict):
        return unusable(WHO, "something else than a key's facts", reason="invalid_answer")
    data = mapping(content[0]["data"])
    return KeyInfo(
        limit_remaining=number(data.get("limit_remaining")),
        creator_user_id=name(data.get("creator_user_id")) or None,
        expires_at=name(data.get("expires_at")) or None,
        manages=any(data.get(word) is True for word in ("is_management_key", "is_provisioning_key")),
    )


def classify_models(answer: Answer, *, now: float, hide: Hide) -> Mapping[str, str | None] | ProviderError:
    """Model and the day of its retirement in an answer to `GET /models`, or the error that it means. Pure."""
    content = answer.content.objects
    if not answer.is_success:
        return _failure(answer, _error(answer, content), now=now, hide=hide)
    if not content or not isinstance(content[0].get("data"), list):
        return unusable(WHO, "something else than a list of models", reason="invalid_answer")
    rows = [mapping(row) for row in content[0]["data"]]
    return {name(row["id"]): name(row.get("expiration_date")) or None for row in rows if name(row.get("id"))}
