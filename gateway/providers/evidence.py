"""Words of providers that are evidence, each with the place where it was seen. In lower case, as they are looked for.

Both decision tables use these; `tests/samples/` has an answer for each.
"""

from collections.abc import Mapping
from typing import Final

_PI: Final = "https://github.com/earendil-works/pi (packages/ai/src/utils/overflow.ts)"

#: The prompt is longer than the model, or the account, allows. OpenRouter passes the words of its providers on.
PROMPT_TOO_LONG: Final[Mapping[str, str]] = {
    "maximum context length": "https://github.com/crewAIInc/crewAI (context_window_exceeding_exception.py)",
    "context length exceeded": "https://github.com/crewAIInc/crewAI (context_window_exceeding_exception.py)",
    "context_length_exceeded": "https://github.com/crewAIInc/crewAI (context_window_exceeding_exception.py)",
    "input is too long": "https://github.com/crewAIInc/crewAI (context_window_exceeding_exception.py)",
    "exceeds the context window": "https://github.com/OpenHands/software-agent-sdk (tests of its exception mapping)",
    "exceed context limit": "https://github.com/OpenHands/software-agent-sdk (tests of its exception mapping)",
    "prompt is too long": "Anthropic's words, in many clients' lists of them",
    "maximum prompt length": "xAI's words, in many clients' lists of them",
    "exceeds the maximum number of tokens allowed": "Google's words, in many clients' lists of them",
    "reduce the length of the messages": "Groq's words, in many clients' lists of them",
    "prompt tokens limit exceeded": "https://github.com/anomalyco/opencode/issues/12219",
    "exceeded model token limit": "Kimi's words, https://github.com/MoonshotAI/kimi-cli/issues/2011",
    "context window exceeds limit": "MiniMax's words, https://github.com/MiniMax-AI/MiniMax-M2/issues/119",
    "range of input length should be": "Qwen's words, https://github.com/QwenLM/qwen-code/issues/98",
    "exceeds the available context size": "llama.cpp's words, https://github.com/ggml-org/llama.cpp/pull/15780",
    "is longer than the model's context length": f"Together's and vLLM's words, {_PI}",
    "greater than the context length": f"LM Studio's words, {_PI}",
    "exceeded max context length": f"Ollama's words, {_PI}",
    "maximum allowed input length": f"Poolside's words, {_PI}",
    "reduce the length of the input prompt": "vLLM's words (VLLMValidationError), in many logs of LiteLLM's",
}

#: The account cannot pay for as many tokens as the call may take.
CANNOT_AFFORD: Final[Mapping[str, str]] = {
    "fewer max_tokens": "https://github.com/Taewan-P/gpt_mobile/issues/284",
    "can only afford": "https://github.com/can1357/oh-my-pi/issues/9569",
}

#: Nothing is left at all; an account can be overdrawn.
AFFORDS_NOTHING: Final[Mapping[str, str]] = {
    "can only afford 0": "https://github.com/anomalyco/opencode/issues/12219",
    "can only afford -": "a balance below zero, https://openrouter.ai/docs/api-reference/limits",
}

#: The account's own settings leave no provider of the model.
SETTINGS_ALLOW_NONE: Final[Mapping[str, str]] = {
    "data policy": "https://github.com/ShamanicArts/Flow.Launcher.Plugin.AI-Assistant/issues/2",
    "guardrail restrictions": "https://github.com/truefoundry/models/pull/826",
    "no allowed providers": "https://github.com/cline/cline/issues/5449",
}

#: The model is none of OpenRouter's, or nobody serves it now.
NO_SUCH_MODEL: Final[Mapping[str, str]] = {
    "not a valid model id": "https://github.com/OpenRouterTeam/openrouter-examples/issues/74",
    "no endpoints found": "https://github.com/Kilo-Org/kilocode/issues/9006",
}

#: The prompt or its answer is against somebody's rules. The names of fields stand for the fields themselves.
MODERATED: Final[Mapping[str, str]] = {
    "moderation": "https://openrouter.ai/docs/api-reference/errors",
    "content_policy_violation": "https://platform.openai.com/docs/guides/error-codes",
    "content_filter": "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/concepts/content-filter",
    "content management policy": "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/concepts/content-filter",
    "refusal": "https://openrouter.ai/docs/api-reference/errors",
    "metadata.reasons": "https://openrouter.ai/docs/api-reference/errors",
    "metadata.flagged_input": "https://openrouter.ai/docs/api-reference/errors",
}

#: A limit of one model.
MODEL_LIMITED: Final[Mapping[str, str]] = {
    "limit_rpm/": "OpenRouter's words for its free models, in many logs of clients",
}

#: A limit of the model's provider.
PROVIDER_LIMITED: Final[Mapping[str, str]] = {
    "provider returned error": "https://openrouter.ai/docs/api-reference/errors",
    "is temporarily rate-limited upstream": "OpenRouter's words, in many logs of clients",
}

#: Google does not serve this place, or not without billing.
NOT_SERVED_HERE: Final[Mapping[str, str]] = {
    "user location is not supported": "https://github.com/google-gemini/gemini-cli/issues/1993",
    "free tier is not available in your country": "https://ai.google.dev/gemini-api/docs/troubleshooting",
}

#: The same as the reason API_KEY_INVALID, where the details are left out.
KEY_INVALID: Final[Mapping[str, str]] = {
    "api key not valid": "https://github.com/google-gemini/gemini-cli/issues/25198",
    "api key expired": "https://github.com/simonw/llm/issues/1213",
}

#: Took too long, was interrupted by another call, or waits for something else; the client that has left is not us.
GIVEN_UP: Final = frozenset({408, 409, 424, 425, 499})

#: Statuses for codes that are words, as OpenAI, Anthropic, Google and OpenRouter's `error_type` have them.
STATUSES: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "context_length_exceeded": 400,
    "failed_precondition": 400,
    "invalid_argument": 400,
    "invalid_request": 400,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "insufficient_credits": 402,
    "insufficient_quota": 402,
    "payment_required": 402,
    "content_policy_violation": 403,
    "forbidden": 403,
    "permission_denied": 403,
    "permission_error": 403,
    "model_not_found": 404,
    "not_found": 404,
    "not_found_error": 404,
    "aborted": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limited": 429,
    "resource_exhausted": 429,
    "too_many_requests": 429,
    "cancelled": 499,
    "internal": 500,
    "internal_server_error": 500,
    "server_error": 500,
    "provider_unavailable": 502,
    "overloaded": 503,
    "overloaded_error": 503,
    "unavailable": 503,
    "deadline_exceeded": 504,
    "timeout": 504,
}
