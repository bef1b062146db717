"""What OpenRouter's failed answers mean: the decision table.

Sources: https://openrouter.ai/docs/api-reference/errors, https://openrouter.ai/docs/api-reference/limits, and answers
captured in public issues.
"""

from typing import Final

from gateway.errors import (
    AuthenticationFailed,
    CallTooLarge,
    ErrorCode,
    RateLimited,
    RequestRejected,
    Scope,
    UpstreamFailed,
)
from gateway.providers.evidence import (
    AFFORDS_NOTHING,
    CANNOT_AFFORD,
    GIVEN_UP,
    MODEL_LIMITED,
    MODERATED,
    NO_SUCH_MODEL,
    PROMPT_TOO_LONG,
    PROVIDER_LIMITED,
    SETTINGS_ALLOW_NONE,
)
from gateway.providers.responses import Rule

KEY_LIMIT: Final = "openrouter_key_limit"
_BUDGETS: Final = ("openrouter_workspace_budget", "openrouter_guardrail_budget")

#: In the order in which OpenRouter's answers have to be read: the named limit, the words of the message, whether the
#: model's provider has spoken, the status. A later sign can be wrong where an earlier one is right: a body about the
#: free daily count can name a provider.
TABLE: Final[tuple[Rule, ...]] = (
    # Before all: it is told with the sources of an empty account and of a used up key, too, and is about neither,
    # unless nothing at all is left.
    Rule(
        "the key's own limit is used up, in the words of a call that is too dear",
        AuthenticationFailed,
        Scope.KEY,
        reason=KEY_LIMIT,
        sources=(KEY_LIMIT,),
        markers=AFFORDS_NOTHING,
        statuses={402},
    ),
    Rule(
        "the same of a budget that starts anew at a stated time: waiting helps",
        RateLimited,
        Scope.ACCOUNT,
        sources=_BUDGETS,
        markers=AFFORDS_NOTHING,
        states_wait=True,
        statuses={402},
    ),
    Rule(
        "the same of the account's credits",
        AuthenticationFailed,
        Scope.ACCOUNT,
        reason="openrouter_credits",
        sources=("", "openrouter_credits", *_BUDGETS),
        markers=AFFORDS_NOTHING,
        statuses={402},
    ),
    Rule(
        "there are credits, and fewer than the most that this call can cost: smaller calls are served",
        CallTooLarge,
        reason="call_too_large",
        says="the credits left do not pay for this call",
        sources=(
            "",
            "openrouter_credits",
            KEY_LIMIT,
            *_BUDGETS,
        ),
        markers=CANNOT_AFFORD,
        statuses={402},
    ),
    Rule(
        "the prompt is too long for the model, or for what the account may ask: no key changes that",
        RequestRejected,
        reason="prompt_too_long",
        says="the prompt is too long",
        markers=PROMPT_TOO_LONG,
        reads_raw=True,
        statuses={400, 402, 413, 422},
    ),
    # 1. metadata.limit_source
    Rule("the key's own limit is used up", AuthenticationFailed, Scope.KEY, sources=(KEY_LIMIT,)),
    Rule(
        "calls in flight hold the account's budget: it frees itself as they end",
        RateLimited,
        Scope.ACCOUNT,
        sources=("openrouter_in_flight_budget",),
    ),
    Rule("nothing left to pay with", AuthenticationFailed, Scope.ACCOUNT, sources=("openrouter_credits",)),
    Rule(
        "a budget that starts anew at a stated time: waiting helps",
        RateLimited,
        Scope.ACCOUNT,
        sources=_BUDGETS,
        states_wait=True,
    ),
    Rule(
        "a budget that only its owner can raise",
        AuthenticationFailed,
        Scope.ACCOUNT,
        sources=_BUDGETS,
    ),
    Rule(
        "everybody's calls to this model share one pool: another key meets the same limit",
        RateLimited,
        Scope.MODEL,
        sources=("upstream_provider_shared_pool", "openrouter_shared_capacity"),
    ),
    Rule(
        "free calls are counted by account, until the reset",
        RateLimited,
        Scope.ACCOUNT,
        sources=("openrouter_free_tier_daily",),
    ),
    Rule("the account calls too fast", RateLimited, Scope.ACCOUNT, sources=("openrouter_admission_control",)),
    # 2. words of the message, type of the error
    Rule(
        "the same as the source of this name, in older answers",
        AuthenticationFailed,
        Scope.KEY,
        reason=KEY_LIMIT,
        markers={"key limit exceeded": "https://openrouter.ai/docs/api-reference/limits"},
        statuses={402, 403},
    ),
    Rule(
        "the same as the source of this name, in older answers",
        AuthenticationFailed,
        Scope.ACCOUNT,
        reason="openrouter_credits",
        markers={"insufficient credits": "https://openrouter.ai/docs/api-reference/errors"},
        statuses={402},
    ),
    Rule(
        "the same as the source of this name, in older answers",
        RateLimited,
        Scope.ACCOUNT,
        reason="openrouter_free_tier_daily",
        markers={"free-models-per-day": "https://github.com/Gitlawb/openclaude/issues/936"},
        statuses={429},
    ),
    Rule(
        "free calls are counted by account, by the minute, too",
        RateLimited,
        Scope.ACCOUNT,
        reason="openrouter_free_tier_minute",
        markers={"free-models-per-min": "https://openrouter.ai/docs/api-reference/limits"},
        statuses={429},
    ),
    Rule(
        "the calls of everybody to one model are counted: another key meets the same limit",
        RateLimited,
        Scope.MODEL,
        reason="openrouter_model_limit",
        markers=MODEL_LIMITED,
        statuses={429},
    ),
    Rule(
        "settings of the account leave no provider of this model: a person has to change these",
        RequestRejected,
        code=ErrorCode.MODEL_NOT_FOUND,
        reason="model_not_allowed",
        says="the account's settings at https://openrouter.ai/settings/privacy allow no provider of this model",
        for_operator=True,
        markers=SETTINGS_ALLOW_NONE,
        statuses={400, 404},
    ),
    Rule(
        "no such model, or nobody who serves it",
        RequestRejected,
        code=ErrorCode.MODEL_NOT_FOUND,
        reason="model_not_found",
        markers=NO_SUCH_MODEL,
        statuses={400, 404},
    ),
    Rule(
        "the prompt was refused, and will be again",
        RequestRejected,
        code=ErrorCode.CONTENT_BLOCKED,
        reason="content_blocked",
        markers=MODERATED,
        reads_raw=True,
        statuses={400, 403},
    ),
    # 3. metadata.provider_name
    Rule(
        "the provider refused OpenRouter and not us: the key is fine",
        UpstreamFailed,
        reason="provider_refused",
        from_provider=True,
        statuses={400, 401, 402, 403},
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
        markers=PROVIDER_LIMITED,
        statuses={429},
    ),
    # 4. the status
    Rule("no such model", RequestRejected, code=ErrorCode.MODEL_NOT_FOUND, statuses={404}),
    Rule("the key is not accepted", AuthenticationFailed, Scope.KEY, statuses={401}),
    Rule(
        "credits do not come back by waiting, so a stated wait means the budget in flight",
        RateLimited,
        Scope.ACCOUNT,
        reason="openrouter_in_flight_budget",
        states_wait=True,
        statuses={402},
    ),
    Rule("nothing left to pay with", AuthenticationFailed, Scope.ACCOUNT, statuses={402}),
    Rule("the key may not do this", AuthenticationFailed, Scope.KEY, statuses={403}),
    Rule("who serves the model, or stands before it, has given up: not our doing", UpstreamFailed, statuses=GIVEN_UP),
    Rule("the key calls too fast", RateLimited, Scope.KEY, statuses={429}),
    Rule("the request is at fault", RequestRejected, statuses=range(400, 500)),
    Rule("the provider is at fault", UpstreamFailed),
)
