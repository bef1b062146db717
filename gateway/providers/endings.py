"""Why a model stopped: every word for it that was seen, and which of a few it means.

OpenRouter normalises `finish_reason` and repeats its provider's own word in `native_finish_reason`; Gemini has
`finishReason`. One table for both, in lower case. Where the words are from:
https://openrouter.ai/docs/api-reference/overview#finish-reason
https://ai.google.dev/api/generate-content#FinishReason
https://docs.cloud.google.com/ruby/docs/reference/google-cloud-ai_platform-v1/latest (Candidate::FinishReason)
https://app.unpkg.com/@ai-sdk/anthropic@3.0.58/files/src/map-anthropic-stop-reason.ts (Anthropic)
https://github.com/zeitlings/ayai-gpt-nexus/issues/2 (`endturn`), https://github.com/MacPaw/OpenAI/pull/312 (`error`)
and, for Bedrock, Cohere, Mistral, DeepSeek and Hugging Face, the tables of other clients.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from gateway.providers.values import count


class Ending(StrEnum):
    """The values of `finish_reason` in an envelope."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    TOOL_CALLS = "tool_calls"
    OTHER = "other"


_WORDS: Final[Mapping[Ending, str]] = {
    # The model had no more to say. Anthropic, Cohere, Together, Hugging Face have words of their own.
    Ending.STOP: "stop end_turn endturn stop_sequence pause_turn complete completed eos eos_token",
    # The cap, or the model's window, was used up. Anthropic, Gemini, Mistral.
    Ending.LENGTH: "length max_tokens model_length model_context_window_exceeded max_output_tokens",
    # A filter has withheld the answer. Gemini, its images, Vertex; Anthropic; Bedrock; Cohere.
    Ending.CONTENT_FILTER: "content_filter refusal safety recitation blocklist prohibited_content spii language"
    " image_safety image_prohibited_content image_recitation model_armor content_filtered guardrail_intervened"
    " error_toxic",
    # The model wants a tool to be called, and none was offered. OpenAI, Anthropic, Gemini, Bedrock, Cohere.
    Ending.TOOL_CALLS: "tool_calls tool_call function_call tool_use malformed_function_call unexpected_tool_call"
    " too_many_tool_calls malformed_tool_use missing_thought_signature",
    # Something else, on the provider's side: worth another try where there is no text.
    Ending.OTHER: "other error finish_reason_unspecified image_other no_image malformed_response abort unknown"
    " insufficient_system_resource malformed_model_output error_limit",
}

ENDINGS: Final[Mapping[str, Ending]] = {word: ending for ending, words in _WORDS.items() for word in words.split()}

#: The numbers of Gemini's reasons, as its enum has them (`Candidate.FinishReason` of google-ai-generativelanguage).
_IN_ORDER: Final = (
    "finish_reason_unspecified stop max_tokens safety recitation other language blocklist prohibited_content spii"
    " malformed_function_call image_safety unexpected_tool_call too_many_tool_calls image_prohibited_content"
    " image_other no_image image_recitation"
)
_BY_NUMBER: Final = dict(enumerate(_IN_ORDER.split()))

#: What a normalised `stop` or a word that nobody knows must not hide.
_TELLS_LITTLE: Final = frozenset({None, Ending.STOP, Ending.OTHER})


def ending(*reasons: object) -> Ending | None:
    """What the reasons mean, the normalised one before the provider's own; None where none is given.

    The first that says more than `stop` counts; a word that is not in the table is `other`.
    """
    words = [reason.lower().replace("-", "_") for reason in reasons if isinstance(reason, str) and reason]
    given = [ENDINGS.get(word, Ending.OTHER) for word in words]
    telling = (one for one in given if one not in _TELLS_LITTLE)
    return next(telling, given[0] if given else None)


def ending_of_gemini(reason: object) -> Ending | None:
    """The same of Gemini's own reason, which some servers give by its number."""
    number = count(reason)
    if number is None:
        return ending(reason)
    return ending(_BY_NUMBER.get(number, "unknown"))
