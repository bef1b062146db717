"""What OpenRouter's answers mean.

Sources: https://openrouter.ai/docs/api-reference/errors, https://openrouter.ai/docs/api-reference/limits, and answers
captured in public issues.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
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
from gateway.providers.hints import header_waits, longest, until
from gateway.providers.responses import (
    Answer,
    Fault,
    Hide,
    Rule,
    amount,
    blocked,
    count,
    exhausted,
    first,
    judge,
    mapping,
    name,
    read_object,
    string,
    tool_calls,
    unusable,
)

WHO: Final = "OpenRouter"

#: In the order in which OpenRouter's answers have to be read: the named limit, the words of the message, whether the
#: model's provider has spoken, the status. A later sign can be wrong where an earlier one is right: a body about the
#: free daily count can name a provider.
TABLE: Final[tuple[Rule, ...]] = (
    # 1. metadata.limit_source
    Rule(
        "the key's own limit is used up", AuthenticationFailed, Scope.KEY, sources=frozenset({"openrouter_key_limit"})
    ),
    Rule(
        "calls in flight hold the account's budget: it frees itself as they end",
        RateLimited,
        Scope.ACCOUNT,
        sources=frozenset({"openrouter_in_flight_budget"}),
    ),
    Rule("nothing left to pay with", AuthenticationFailed, Scope.ACCOUNT, sources=frozenset({"openrouter_credits"})),
    Rule(
        "a budget that starts anew at a stated time: waiting helps",
        RateLimited,
        Scope.ACCOUNT,
        sources=frozenset({"openrouter_workspace_budget", "openrouter_guardrail_budget"}),
        states_wait=True,
    ),
    Rule(
        "a budget that only its owner can raise",
        AuthenticationFailed,
        Scope.ACCOUNT,
        sources=frozenset({"openrouter_workspace_budget", "openrouter_guardrail_budget"}),
    ),
    Rule(
        "everybody's calls to this model share one pool: another key meets the same limit",
        RateLimited,
        Scope.MODEL,
        sources=frozenset({"upstream_provider_shared_pool", "openrouter_shared_capacity"}),
    ),
    Rule(
        "free calls are counted by account, until the reset",
        RateLimited,
        Scope.ACCOUNT,
        sources=frozenset({"openrouter_free_tier_daily"}),
    ),
    Rule("the account calls too fast", RateLimited, Scope.ACCOUNT, sources=frozenset({"openrouter_admission_control"})),
    # 2. words of the message, type of the error
    Rule(
        "the same as the source of this name, in older answers",
        AuthenticationFailed,
        Scope.KEY,
        reason="openrouter_key_limit",
        markers=("key limit exceeded",),
        statuses={402, 403},
    ),
    Rule(
        "the same as the source of this name, in older answers",
        RateLimited,
        Scope.ACCOUNT,
        reason="openrouter_free_tier_daily",
        markers=("free-models-per-day",),
        statuses={429},
    ),
    Rule(
        "the prompt was refused, and will be again",
        RequestRejected,
        code=ErrorCode.CONTENT_BLOCKED,
        reason="content_blocked",
        markers=("moderation", "content_policy_violation", "refusal", "metadata.reasons", "metadata.flagged_input"),
        statuses={400, 403},
    ),
    # 3. metadata.provider_name
    Rule(
        "the provider refused OpenRouter and not us: the key is fine",
        UpstreamFailed,
        reason="provider_refused",
        from_provider=True,
        statuses={400, 401, 403},
    ),
    Rule(
        "the provider's limit for OpenRouter: another key meets the same one",
        RateLimited,
        Scope.MODEL,
        reason="provider_limit",
        from_provider=True,
        statuses={429},
    ),
    Rule(
        "as above, with the provider's name left out",
        RateLimited,
        Scope.MODEL,
        reason="provider_limit",
        markers=("provider returned error",),
        statuses={429},
    ),
    # 4. the status
    Rule("no such model", RequestRejected, code=ErrorCode.MODEL_NOT_FOUND, statuses={404}),
    Rule("the key is not accepted", AuthenticationFailed, Scope.KEY, statuses={401}),
    Rule(
        "credits do not come back by waiting, so a stated wait means the budget in flight",
        RateLimited,
        Scope.ACCOUNT,
        states_wait=True,
        statuses={402},
    ),
    Rule("nothing left to pay with", AuthenticationFailed, Scope.ACCOUNT, statuses={402}),
    Rule("the key may not do this", AuthenticationFailed, Scope.KEY, statuses={403}),
    Rule("the provider took too long", UpstreamFailed, statuses={408}),
    Rule("the key calls too fast", RateLimited, Scope.KEY, statuses={429}),
    Rule("the request is at fault", RequestRejected, statuses=range(400, 500)),
    Rule("the provider is at fault", UpstreamFailed),
)

_FILTERED = frozenset({"content_filter", "refusal"})
#: What a failed 200 counts as when its code says nothing.
_UNKNOWN = HTTPStatus.BAD_GATEWAY


def classify_openrouter(answer: Answer, *, asked: str, now: float, hide: Hide) -> Completion | ProviderError:
    """The completion in `answer`, or the error that it means. Returned and never raised; pure.

    `asked` is the model that was asked for, `now` epoch seconds, `hide` takes secrets and the prompt out of a text.
    """
    content = read_object(answer.body)
    if not answer.is_success:
        return _failure(answer.status, answer.headers, (content or {}).get("error"), now=now, hide=hide)
    if content is None:
        return unusable(WHO, "something else than a JSON object", reason="invalid_answer")
    choice = first(content.get("choices"))
    error = content.get("error") or (choice.get("error") or {} if choice.get("finish_reason") == "error" else None)
    if error is not None:
        return _failure(_code(error), answer.headers, error, now=now, hide=hide)
    return _completion(content, choice, asked=asked, generation_id=answer.header("X-Generation-Id"))


def _failure(status: int, headers: Mapping[str, str], error: object, *, now: float, hide: Hide) -> ProviderError:
    if isinstance(error, str):
        error = {"message": error}
    facts = mapping(error)
    metadata = mapping(facts.get("metadata"))
    message = string(facts.get("message"))
    mirrored = mapping(metadata.get("headers"))
    waits = [*header_waits(headers, now), *header_waits(mirrored, now), until(metadata.get("resets_at"), now)]
    fault = Fault(
        status,
        message,
        source=string(metadata.get("limit_source")),
        signs=_signs(message, metadata),
        from_provider=bool(metadata.get("provider_name")),
        wait_s=longest(waits),
    )
    return judge(fault, TABLE, who=WHO, hide=hide)


def _signs(message: str, metadata: Mapping[str, Any]) -> str:
    present = [f"metadata.{field}" for field in ("reasons", "flagged_input") if metadata.get(field)]
    return " ".join([message, string(metadata.get("error_type")), string(metadata.get("reason")), *present]).lower()


def _code(error: object) -> int:
    code = mapping(error).get("code")
    if isinstance(code, str) and code.isascii() and code.isdigit():
        code = int(code[:4])
    return code if isinstance(code, int) and code in range(400, 600) else _UNKNOWN


def _completion(
    content: Mapping[str, Any], choice: Mapping[str, Any], *, asked: str, generation_id: str | None
) -> Completion | ProviderError:
    message = mapping(choice.get("message"))
    text = string(message.get("content"))
    calls = tool_calls(message.get("tool_calls"))
    ended = choice.get("finish_reason")
    if ended in _FILTERED or (not text.strip() and message.get("refusal")):
        return blocked(WHO)
    if not text.strip() and not calls:
        return exhausted(WHO) if ended == "length" else unusable(WHO, "an empty text", reason="empty_answer")
    return Completion(
        content=text,
        usage=_usage(mapping(content.get("usage"))),
        model_used=name(content.get("model")) or asked,
        generation_id=name(generation_id) or name(content.get("id")) or None,
        tool_calls=calls,
    )


def _usage(usage: Mapping[str, Any]) -> Usage:
    prompt, completion = count(usage.get("prompt_tokens")) or 0, count(usage.get("completion_tokens")) or 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage.get("total_tokens")) or prompt + completion,
        cost=amount(usage.get("cost")),
        reasoning_tokens=count(mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What `GET /key` tells about a key; `limit_remaining` is in credits (US dollars). None: not told, or no limit."""

    limit_remaining: float | None
    creator_user_id: str | None = field(repr=False)
    expires_at: str | None


def classify_key(answer: Answer, *, now: float, hide: Hide) -> KeyInfo | ProviderError:
    """The facts in an answer to `GET /key`, or the error that it means. Returned and never raised; pure."""
    content = read_object(answer.body)
    if not answer.is_success:
        return _failure(answer.status, answer.headers, (content or {}).get("error"), now=now, hide=hide)
    if content is None or not isinstance(content.get("data"), dict):
        return unusable(WHO, "something else than a key's facts", reason="invalid_answer")
    data = mapping(content["data"])
    return KeyInfo(
        limit_remaining=amount(data.get("limit_remaining")),
        creator_user_id=name(data.get("creator_user_id")) or None,
        expires_at=name(data.get("expires_at")) or None,
    )


def classify_models(answer: Answer, *, now: float, hide: Hide) -> Mapping[str, str | None] | ProviderError:
    """Model and the day of its retirement in an answer to `GET /models`, or the error that it means. Pure."""
    content = read_object(answer.body)
    if not answer.is_success:
        return _failure(answer.status, answer.headers, (content or {}).get("error"), now=now, hide=hide)
    if content is None or not isinstance(content.get("data"), list):
        return unusable(WHO, "something else than a list of models", reason="invalid_answer")
    rows = [mapping(row) for row in content["data"]]
    return {name(row["id"]): name(row.get("expiration_date")) or None for row in rows if name(row.get("id"))}
