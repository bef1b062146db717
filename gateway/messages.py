"""The public messages (request, success, error, delta) and the job that the worker makes of a request.

The field names are a contract with other programs; see the README. Models hold prompts and answers, so their `repr`
shows the request id only.
"""

import math
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from gateway import chat
from gateway.bills import Bill
from gateway.errors import ErrorCode, GatewayError
from gateway.fields import Instant, ShortString, Whole
from gateway.lanes import Lane
from gateway.traces import Trace

#: The form of `Job` and of `Reply` on the wire. A worker reads this form and the one before it.
WIRE_VERSION: Literal[1] = 1


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds and `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Message(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,  # script/contract writes them into the schemas and docs/messages.md
    )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'request_id', '…')!r})"

    __str__ = __repr__


Model = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class Parameters(_Message):
    """How to answer; each is passed on only when given, under its name but for `max_output_tokens`."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    """0 to 2."""
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """0 to 1."""
    top_k: Whole | None = Field(default=None, ge=1, le=1_000_000)
    """From 1."""
    max_output_tokens: Whole | None = Field(default=None, ge=1, le=10_000_000)
    """From 1; OpenRouter's `max_tokens`."""
    stop: chat.Stop | None = None
    """A text or a list of texts."""
    seed: Whole | None = None
    """An integer."""
    frequency_penalty: Penalty | None = None
    """-2 to 2."""
    presence_penalty: Penalty | None = None
    """-2 to 2."""
    repetition_penalty: float | None = Field(default=None, gt=0, le=2, allow_inf_nan=False)
    """Above 0 to 2. Gemini, asked directly: refused."""
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """0 to 1. Gemini, asked directly: refused."""
    top_a: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    """0 to 1. Gemini, asked directly: refused."""
    response_format: chat.ResponseFormat | None = None
    """`{"type": "text"}`, `"json_object"`, or `"json_schema"` with `json_schema.schema`."""
    reasoning: chat.Reasoning | None = None
    """`effort`, `max_tokens`, `enabled`, `exclude`. Gemini, asked directly: a thinking budget; for Gemini 3 a level."""
    tools: chat.Many[chat.Tool] | None = None
    """Functions, and OpenRouter's own tools. Gemini, asked directly: functions, without `strict`."""
    tool_choice: chat.ToolChoice | None = None
    """`none`, `auto`, `required`, or a function."""
    parallel_tool_calls: bool | None = None
    """True or false. Gemini, asked directly: refused."""
    models: chat.Many[Model] | None = None
    """Models to fall back to, in order. Gemini, asked directly: refused."""
    provider: dict[str, Any] | None = None
    """OpenRouter's preferences for providers. Gemini, asked directly: refused."""

    @property
    def given(self) -> dict[str, Any]:
        """Those that have a value, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Request(_Message):
    """One request as a producer publishes it to `gemini.requests`: it has a `prompt` or `messages`."""

    request_id: ShortString
    """A string, a UUID by habit; an integer is its digits. The AMQP property `correlation_id` or `message_id` stands in
    for it. A client that [waits](#request-and-reply) needs none.
    """
    prompt: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")] | None = None
    """Not blank. Either this or `messages`."""
    messages: chat.Many[chat.Message] | None = None
    """A conversation, in place of `prompt`: see [below](#messages)."""
    model: Model | None = None
    """`vendor/name` goes out as it is. A bare name is the older Gemini form: `gemini-pro` is the default model,
    `gemini-x` is `google/gemini-x`; `MODEL_ALIASES` says otherwise. `models/` in front is taken off. With keys of
    Gemini only it is the same, and `google/` is taken off.
    """
    parameters: Parameters = Parameters()
    """How to answer: see [below](#parameters)."""
    system_instruction: str | None = None
    """Goes before all messages."""
    user: chat.Name | None = None
    """Who asks, for OpenRouter. Up to 256 characters."""
    session_id: chat.Name | None = None
    """In which session, for OpenRouter. Up to 256 characters."""
    metadata: dict[str, Any] | None = None
    """An object; comes back in the answer."""
    callback_queue: ShortString
    """Where the answer goes; else `reply_to`, else `gemini.responses`. One of the worker's own queues is refused, and
    an `amq.` name that is no client's. For a queue that is missing the answer is held until it is there
    (`CALLBACK_QUEUE_CREATE`).
    """
    timestamp: str | int | float | None = None
    """When it was made; not looked at."""
    retry_count: Whole = Field(default=0, ge=0, le=1_000)
    """Starts the request further up the retry schedule."""
    expires_at: Instant | None = None
    """Until when the answer is wanted: ISO 8601 with `Z` or an offset, such as `2026-01-01T00:05:00Z`. See
    [Deadline](#deadline).
    """
    expires_in_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The same as a number of seconds, more than 0."""
    priority: Literal["interactive", "batch"] | None = None
    """`interactive` (what counts where nothing is said) or `batch`: see [Priority](#priority)."""
    stream: bool = False
    """`true`: the answer also comes in pieces while the model speaks. See [Partial answers](#partial-answers)."""

    @model_validator(mode="after")
    def _is_about_one_thing(self) -> Self:
        if (self.prompt is None) is (self.messages is None):
            raise PydanticCustomError("prompt", "give either prompt or messages")
        return self

    @property
    def conversation(self) -> list[Any]:
        """All that is said, in the form of `messages`; the system instruction comes first."""
        system = [{"role": "system", "content": self.system_instruction}] if self.system_instruction else []
        return [*system, *(self.messages or [{"role": "user", "content": self.prompt}])]


class Cancel(_Message):
    """What a producer publishes to have a request that it has sent not be called for any more."""

    cancel: ShortString
    """The `request_id` of the request; an integer is its digits."""


class Caller(_Message):
    """What AMQP's properties say of who has asked; kept through every wait, for the properties of the reply.

    `correlation_id` is as it came; where that was `binary` and no text, a character stands for each byte. `waits`: the
    address is one of AMQP's request/reply, a client's own. `trace`: the headers of a trace that it is part of.
    """

    correlation_id: str | None = None
    binary: bool = False
    waits: bool = False
    trace: Trace = None

    @classmethod
    def of(cls, correlation_id: object, *, waits: bool, headers: object = None) -> Self:
        """The caller with this AMQP property: a text, bytes that are none, or nothing."""
        facts = {"waits": waits, "trace": headers}
        if isinstance(correlation_id, bytes):
            return cls(correlation_id=correlation_id.decode("latin-1"), binary=True, **facts)
        return cls(correlation_id=correlation_id if isinstance(correlation_id, str) else None, **facts)

    @property
    def correlation(self) -> str | bytes | None:
        """The AMQP property, for the answer."""
        return self.correlation_id.encode("latin-1") if self.binary and self.correlation_id else self.correlation_id


#: Of a request that says nothing of it.
NOBODY = Caller()


@dataclass(frozen=True, slots=True)
class Spent:
    """What a request has taken so far: calls to a provider, and milliseconds of all of them and of the last one.

    A call that its process has not survived is not in it.
    """

    calls: int = 0
    calls_ms: int = 0
    call_ms: int | None = None

    def and_call(self, ms: int) -> "Spent":
        return Spent(self.calls + 1, self.calls_ms + ms, ms)

    def told(self, processing_time_ms: int) -> dict[str, int | None]:
        """As the envelope has it."""
        waited_ms = max(0, processing_time_ms - self.calls_ms)
        return {"attempts": self.calls, "waited_ms": waited_ms, "call_ms": self.call_ms}


class Job(_Message):
    """A request on its way through the worker: the only argument of the actor `generate`.

    `retry_count` counts finished or running waits for a key, `upstream_retries` those for the provider.
    `received_at` is epoch seconds when the request was read: `processing_time_ms` counts from there.
    `hop` counts the copies that were sent to wait: of two copies of a delivery, only the later one is worked on.
    `wait_counts` says whether the running wait is in `retry_count`, or in `upstream_retries`.
    `redriven` counts how often an operator has sent it again after it was dead.
    `expires_at` is epoch seconds from when on nobody waits for the answer, None for a request without a deadline.
    `spent` counts the calls of earlier attempts.
    `dropped`: an operator has said that it is called for no more.
    `lane` is that of the request, also where AMQP's properties say it; older messages of ours are interactive.
    """

    v: Literal[1] = WIRE_VERSION
    request: Request
    received_at: float
    retry_count: int = Field(default=0, ge=0)
    upstream_retries: int = Field(default=0, ge=0)
    redelivered: bool = False
    hop: int = Field(default=0, ge=0)
    wait_counts: bool = True
    redriven: int = Field(default=0, ge=0)
    caller: Caller = NOBODY
    expires_at: float | None = Field(default=None, allow_inf_nan=False)
    spent: Spent | None = None
    dropped: bool = False
    lane: Lane = Lane.INTERACTIVE

    @classmethod
    def of(  # noqa: PLR0913 - what is known of it, all by name
        cls,
        request: Request,
        *,
        received_at: float,
        redelivered: bool = False,
        caller: Caller = NOBODY,
        expires_at: float | None = None,
        lane: Lane = Lane.INTERACTIVE,
    ) -> Self:
        """The first job of a request; a producer may start it further up the schedule with `retry_count`."""
        return cls(
            request=request,
            received_at=received_at,
            retry_count=request.retry_count,
            redelivered=redelivered,
            caller=caller,
            expires_at=expires_at,
            lane=lane,
        )

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def age_ms(self) -> int:
        """Milliseconds since the request was read; never negative, whatever the clocks say."""
        return max(0, round((time.time() - self.received_at) * 1000))

    @property
    def time_left_s(self) -> float:
        """Seconds until its deadline, not above 0 when that has passed; infinity without one."""
        return math.inf if self.expires_at is None else self.expires_at - time.time()


class Usage(_Message):
    prompt_tokens: int = 0
    """Of what was asked."""
    completion_tokens: int = 0
    """Of what was answered, reasoning among it."""
    total_tokens: int = 0
    """Of both."""
    cost: float | None = None
    """What this answer cost, in the provider's unit, where it reports it; calls before it that failed are not in it."""
    reasoning_tokens: int | None = None
    """Where the provider reports them."""

    def bill(self, *, model: str, generation_id: str | None) -> Bill:
        """For the call that it is about."""
        return Bill(self.prompt_tokens, self.completion_tokens, self.cost, model, generation_id)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a provider answered: text or calls of tools, what it cost, the model that served it, and why it stopped."""

    content: str = field(repr=False)
    usage: Usage
    model_used: str
    generation_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = field(default=None, repr=False)
    finish_reason: str | None = None  # one of a few: `gateway.providers.endings`

    @property
    def bill(self) -> Bill:
        return self.usage.bill(model=self.model_used, generation_id=self.generation_id)


class Success(_Message):
    """The envelope of an answered request.

    `attempts` are calls to a provider, `call_ms` is the time of the last one, `waited_ms` that of all but calls.
    """

    request_id: str
    """Of the request."""
    status: Literal["success"] = "success"
    """Which of the two envelopes it is."""
    content: str
    """The text as it came; it may be empty where there are `tool_calls`."""
    tool_calls: list[dict[str, Any]] | None = None
    """A list of `{"id", "type": "function", "function": {"name", "arguments"}}`, where `arguments` is JSON as a text.
    """
    usage: Usage
    """Tokens: `prompt_tokens`, `completion_tokens`, `total_tokens`; `cost` and `reasoning_tokens` where the provider
    reports them. Those of this answer.
    """
    processing_time_ms: int
    """From when the request was read."""
    model_used: str
    """What the provider says served the request."""
    finish_reason: str | None = None
    """Why the model stopped, where the provider says so: `stop`; `length`, the text is cut at `max_output_tokens`, or
    at what the account could still pay for; `tool_calls` or `other`.
    """
    timestamp: str
    """When it was made: UTC, ISO 8601 with `Z`."""
    metadata: dict[str, Any] | None = None
    """As it came."""
    attempts: int | None = None
    """Calls to a provider for this request; those of a process that died are not in it."""
    waited_ms: int | None = None
    """The time of everything but calls since the request was read, mostly waits for a key."""
    call_ms: int | None = None
    """The time of the last call."""
    generation_id: str | None = None
    """The provider's name for the answer."""

    @classmethod
    def of(cls, job: Job, completion: Completion, *, processing_time_ms: int, spent: Spent) -> Self:
        return cls(
            request_id=job.request_id,
            content=completion.content,
            tool_calls=completion.tool_calls,
            usage=completion.usage,
            processing_time_ms=processing_time_ms,
            model_used=completion.model_used,
            finish_reason=completion.finish_reason,
            timestamp=now(),
            metadata=job.request.metadata,
            generation_id=completion.generation_id,
            **spent.told(processing_time_ms),
        )


class Failure(_Message):
    """The envelope of a request that got no answer; `error` is a sentence, `error_code` a value to branch on."""

    request_id: str | None = None
    """Of the request, where it could be read."""
    status: Literal["error"] = "error"
    """Which of the two envelopes it is."""
    error: str
    """A sentence for people."""
    error_code: ErrorCode
    """A value to branch on, see below."""
    processing_time_ms: int
    """From when the request was read."""
    timestamp: str
    """When it was made: UTC, ISO 8601 with `Z`."""
    metadata: dict[str, Any] | None = None
    """As it came."""
    attempts: int | None = None
    """Calls to a provider for this request; those of a process that died are not in it. Not there for a request that
    was refused when it was read.
    """
    waited_ms: int | None = None
    """The time of everything but calls since the request was read, mostly waits for a key."""
    call_ms: int | None = None
    """The time of the last call."""

    @classmethod
    def of(
        cls,
        error: GatewayError,
        *,
        request_id: str | None,
        processing_time_ms: int,
        metadata: dict[str, Any] | None = None,
        spent: Spent | None = None,
    ) -> Self:
        return cls(
            request_id=request_id,
            error=str(error),
            error_code=error.code,
            processing_time_ms=processing_time_ms,
            timestamp=now(),
            metadata=metadata,
            **(spent.told(processing_time_ms) if spent is not None else {}),
        )


Envelope = Success | Failure


class Delta(_Message):
    """A piece of an answer while the model speaks, for requests with `stream`; nothing is promised of it.

    `attempt` is the number of the call to a provider, from 1; `seq` counts the pieces of one call, from 0.
    """

    request_id: str
    """Of the request."""
    attempt: int = Field(ge=1)
    """The number of the call to the provider, from 1. With a higher one the answer begins anew."""
    seq: int = Field(ge=0)
    """Counts the pieces of one attempt, from 0."""
    text: str
    """The next piece of the answer."""


#: Makes the `message_id` of an envelope, so that every copy of one envelope carries the same one.
_ENVELOPE_NAMESPACE = uuid.UUID("6f1c3a52-6f55-4f0e-9b62-6a2f0f3f4c55")


class Reply(_Message):
    """A finished envelope on its way out: the exact bytes, the queue they go to and the `message_id` of every copy.

    `attempts` counts deliveries that the callback queue refused, `first_refused_at` is epoch seconds of the first.
    `redriven` counts as in a job.
    """

    v: Literal[1] = WIRE_VERSION
    request_id: str | None = None
    queue: ShortString
    body: str
    message_id: str
    success: bool
    attempts: int = Field(default=0, ge=0)
    first_refused_at: float | None = None
    redriven: int = Field(default=0, ge=0)
    caller: Caller = NOBODY

    @classmethod
    def of(cls, envelope: Envelope, *, queue: str, work_id: str, caller: Caller = NOBODY) -> Self:
        """The finished envelope that answers the work `work_id`; equal work and status give an equal `message_id`."""
        return cls(
            request_id=envelope.request_id,
            queue=queue,
            body=encode(envelope).decode(),
            message_id=str(uuid.uuid5(_ENVELOPE_NAMESPACE, f"{work_id}/{envelope.status}")),
            success=isinstance(envelope, Success),
            caller=caller,
        )


def encode(message: _Message) -> bytes:
    """The message as JSON bytes; fields without a value are left out."""
    return message.model_dump_json(exclude_none=True).encode()


def as_json(message: _Message) -> dict[str, Any]:
    """The message as plain JSON types, for use inside another message."""
    return message.model_dump(mode="json", exclude_none=True)
