"""How the next calls are to be answered: rules, set by a test."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, TypeAdapter


class _Strict(BaseModel):
    """A misspelt field in a rule is an error, not a test that passes for the wrong reason."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Drip(_Strict):
    """One byte every `interval_s` seconds."""

    interval_s: NonNegativeFloat
    where: Literal["body", "headers"] = "body"


class Stream(_Strict):
    """How an answer is streamed that was asked for as a stream: a pause of `pause_s` behind each event.

    Before event number `after`, counted from 0, it waits at the `gate`, if there is one, and `then` goes on, ends in
    order, loses its connection, or tells an error of the provider's.
    """

    pause_s: NonNegativeFloat = 0.0
    after: NonNegativeInt = 1
    gate: str | None = None
    then: Literal["go_on", "end", "lose", "error"] = "go_on"


class Behaviour(_Strict):
    """What is done to one call. Without any field: an ordinary answer, at once.

    First comes the wait (`latency_s`, `delay_s`, `gate`, `hang`; with `whitespace` white space is sent meanwhile, for
    ever when nothing else ends the wait; what is for ever ends with a release or a reset), then the answer (`status`
    to `finish_reason`), which `drip` or `cut` spoils. `delay_s` comes on top of the latency that every answer takes, or
    of `latency_s` in its place. `redirect` is a 307 to there, unless `status` says otherwise. `cut` is the number of
    bytes that are sent of a body that was announced as longer. `body_base64` is for bytes that are no text. `stream` is
    for calls that ask for a stream, and does nothing to others.
    """

    delay_s: NonNegativeFloat = 0.0
    latency_s: NonNegativeFloat | None = None
    gate: str | None = None
    hang: bool = False
    whitespace: bool = False
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    body: Any = None
    body_base64: str | None = None
    headers: dict[str, str] = {}
    redirect: str | None = None
    error_in_200: Literal["top", "choice"] | None = None
    invalid_json: bool = False
    huge: NonNegativeInt | None = None
    empty_choices: bool = False
    null_content: bool = False
    finish_reason: str | None = None
    drip: Drip | None = None
    cut: NonNegativeInt | None = None
    stream: Stream = Stream()


ORDINARY = Behaviour()


class Rule(Behaviour):
    """A behaviour for `times` calls (None: for ever) whose key ends in, whose model is and whose prompt holds this."""

    key: str = ""
    model: str | None = None
    prompt: str = ""
    times: NonNegativeInt | None = None

    def applies(self, key: str, model: str, prompt: str) -> bool:
        return key.endswith(self.key) and self.model in (None, model) and self.prompt in prompt


_RULES = TypeAdapter(list[Rule])


class Script:
    """Rules in order: the first that applies and is not used up is used."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []
        self._uses: list[int] = []

    def replace(self, rules: bytes) -> None:
        """Take this JSON list in place of all rules. Raises ValueError, and changes nothing, for what is no rule."""
        self._rules = _RULES.validate_json(rules)
        self._uses = [0] * len(self._rules)

    def clear(self) -> None:
        self.replace(b"[]")

    def behaviour(self, key: str, model: str, prompt: str) -> Behaviour:
        """What happens to this call; counts as one use."""
        for number, rule in enumerate(self._rules):
            used_up = rule.times is not None and self._uses[number] >= rule.times
            if not used_up and rule.applies(key, model, prompt):
                self._uses[number] += 1
                return rule
        return ORDINARY
