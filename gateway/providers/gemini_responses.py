"""What the answers of Google's Gemini API mean.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/troubleshooting, and answers
captured in public issues.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

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
from gateway.providers.hints import longest, seconds, until_midnight_pacific
from gateway.providers.responses import (
    Answer,
    Fault,
    Hide,
    Rule,
    blocked,
    count,
    exhausted,
    first,
    judge,
    mapping,
    name,
    read_object,
    string,
    tool_call,
    unusable,
)

WHO: Final = "Gemini"

TABLE: Final[tuple[Rule, ...]] = (
    Rule(
        "a wrong key is told as a bad request",
        AuthenticationFailed,
        Scope.KEY,
        sources=frozenset({"API_KEY_INVALID"}),
        reason="api_key_invalid",
    ),
    Rule("no such model", RequestRejected, code=ErrorCode.MODEL_NOT_FOUND, statuses={404}),
    Rule("the key is not accepted, or may not do this", AuthenticationFailed, Scope.KEY, statuses={401, 403}),
    Rule("billing is off", AuthenticationFailed, Scope.ACCOUNT, statuses={402}),
    Rule("the provider took too long", UpstreamFailed, statuses={408}),
    Rule("a quota of the key's project is used up", RateLimited, Scope.KEY, statuses={429}),
    Rule("the request is at fault", RequestRejected, statuses=range(400, 500)),
    Rule("the provider is at fault", UpstreamFailed),
)

_FILTERED = frozenset({"SAFETY", "PROHIBITED_CONTENT", "RECITATION", "BLOCKLIST", "SPII"})


def classify_gemini(answer: Answer, *, asked: str, now: float, hide: Hide) -> Completion | ProviderError:
    """The completion in `answer`, or the error that it means. Returned and never raised; pure.

    `asked` is the model that was asked for, `now` epoch seconds, `hide` takes secrets and the prompt out of a text.
    """
    content = read_object(answer.body)
    if not answer.is_success:
        return _failure(answer.status, mapping((content or {}).get("error")), now=now, hide=hide)
    if content is None:
        return unusable(WHO, "something else than a JSON object", reason="invalid_answer")
    return _completion(content, first(content.get("candidates")), asked=asked)


def _failure(status: int, error: Mapping[str, Any], *, now: float, hide: Hide) -> ProviderError:
    details = [mapping(detail) for detail in _items(error.get("details"))]
    waits = [seconds(detail.get("retryDelay")) for detail in details]
    if any("PerDay" in quota for detail in details for quota in _quotas(detail)):
        waits.append(until_midnight_pacific(now))
    causes = [string(detail.get("reason")) for detail in details if detail.get("reason")]
    fault = Fault(status, string(error.get("message")), source=next(iter(causes), ""), wait_s=longest(waits))
    return judge(fault, TABLE, who=WHO, hide=hide)


def _quotas(detail: Mapping[str, Any]) -> Iterator[str]:
    return (string(mapping(violation).get("quotaId")) for violation in _items(detail.get("violations")))


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _completion(content: Mapping[str, Any], candidate: Mapping[str, Any], *, asked: str) -> Completion | ProviderError:
    ended = candidate.get("finishReason")
    refused = mapping(content.get("promptFeedback")).get("blockReason")
    if ended in _FILTERED or (refused and not candidate):
        return blocked(WHO)
    text, calls = _text(candidate), _tool_calls(candidate)
    if not text.strip() and not calls:
        return exhausted(WHO) if ended == "MAX_TOKENS" else unusable(WHO, "an empty text", reason="empty_answer")
    return Completion(
        content=text,
        usage=_usage(mapping(content.get("usageMetadata"))),
        model_used=name(content.get("modelVersion")) or asked,
        generation_id=name(content.get("responseId")) or None,
        tool_calls=calls,
    )


def _parts(candidate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [mapping(part) for part in _items(mapping(candidate.get("content")).get("parts"))]


def _text(candidate: Mapping[str, Any]) -> str:
    # A part marked `thought` is a summary of the reasoning and no part of the answer.
    return "".join(string(part.get("text")) for part in _parts(candidate) if part.get("thought") is not True)


def _tool_calls(candidate: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """As OpenRouter has them, each with the signature that Gemini wants back where its OpenAI-like API has it."""
    calls: list[dict[str, Any]] = []
    for part in _parts(candidate):
        if called := mapping(part.get("functionCall")):
            arguments = json.dumps(called.get("args") or {}, ensure_ascii=True)
            call_id = string(called.get("id")) or f"call_{len(calls) + 1}"
            call = tool_call(call_id, {"name": called.get("name"), "arguments": arguments})
            if signature := string(part.get("thoughtSignature")):
                call["extra_content"] = {"google": {"thought_signature": signature}}
            calls.append(call)
    return calls or None


def _usage(usage: Mapping[str, Any]) -> Usage:
    prompt, thoughts = count(usage.get("promptTokenCount")) or 0, count(usage.get("thoughtsTokenCount"))
    completion = (count(usage.get("candidatesTokenCount")) or 0) + (thoughts or 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage.get("totalTokenCount")) or prompt + completion,
        reasoning_tokens=thoughts,
    )
