"""What a call has cost, as its provider says it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bill:
    """Of one call; `cost` is in US dollars, None where the provider does not say."""

    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    model: str
    generation_id: str | None
