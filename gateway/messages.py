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
from gateway.errors import ErrorCode, GatewayError
from gateway.fields import Instant, ShortString, Whole
from gateway.lanes import Lane

#: The form of `Job` and of `Reply` on the wire. A worker reads this form and the one before it.
WIRE_VERSION: Literal[1] = 1


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds and `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, protected_namespaces=())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'request_id', '…')!r})"

    __str__ = __repr__


Model = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class Parameters(_Message):
    """How to answer; each is passed on only when given, under its name but for `max_output_tokens`."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: Whole | None = Field(default=None, ge=1, le=1_000_000)
    max_output_tokens: Whole | None = Field(default=None, ge=1, le=10_000_000)
    stop: chat.Stop | None = None
    seed: Whole | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: float | None = Field(default=None, gt=0, le=2, allow_inf_nan=False)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_a: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    response_format: chat.ResponseFormat | None = None
    reasoning: chat.Reasoning | None = None
    tools: chat.Many[chat.Tool] | None = None
    tool_choice: chat.ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    models: chat.Many[Model] | None = None
    provider: dict[str, Any] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that have a value, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Request(_Message):
    """One request as a producer publishes it to `gemini.requests`: it has a `prompt` or `messages`."""

    request_id: ShortString
    prompt: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")] | None = None
    messages: chat.Many[chat.Message] | None = None
    model: Model | None = None
    parameters: Parameters = Parameters()
    system_instruction: str | None = None
    user: chat.Name | None = None
    session_id: chat.Name | None = None
    metadata: dict[str, Any] | None = None
    callback_queue: ShortString
    timestamp: str | int | float | None = None
    retry_count: Whole = Field(default=0, ge=0, le=1_000)
    expires_at: Instant | None = None
    expires_in_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    priority: Literal["interactive", "batch"] | None = None
    stream: bool = False

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


class Caller(_Message):
    """What AMQP's properties say of who has asked; kept through every wait, for the properties of the reply.

    `correlation_id` is as it came; where that was `binary` and no text, a character stands for each byte. `waits`: the
    address is one of AMQP's request/reply, a client's own.
    """

    correlation_id: str | None = None
    binary: bool = False
    waits: bool = False

    @classmethod
    def of(cls, correlation_id: object, *, waits: bool) -> Self:
        """The caller with this AMQP property: a text, bytes that are none, or nothing."""
        if isinstance(correlation_id, bytes):
            return cls(correlation_id=correlation_id.decode("latin-1"), binary=True, waits=waits)
        return cls(correlation_id=correlation_id if isinstance(correlation_id, str) else None, waits=waits)

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
    `wait_counts` says whether the running wait for a key is in `retry_count`.
    `redriven` counts how often an operator has sent it again after it was dead.
    `expires_at` is epoch seconds from when on nobody waits for the answer, None for a request without a deadline.
    `spent` counts the calls of earlier attempts.
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
    completion_tokens: int = 0
    total_tokens: int = 0
    cost: float | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What a provider answered: text or calls of tools, what it cost, the model that served it, and why it stopped."""

    content: str = field(repr=False)
    usage: Usage
    model_used: str
    generation_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = field(default=None, repr=False)
    finish_reason: str | None = None  # one of a few: `gateway.providers.endings`


class Success(_Message):
    """The envelope of an answered request.

    `attempts` are calls to a provider, `call_ms` is the time of the last one, `waited_ms` that of all but calls.
    """

    request_id: str
    status: Literal["success"] = "success"
    content: str
    tool_calls: list[dict[str, Any]] | None = None
    usage: Usage
    processing_time_ms: int
    model_used: str
    finish_reason: str | None = None
    timestamp: str
    metadata: dict[str, Any] | None = None
    attempts: int | None = None
    waited_ms: int | None = None
    call_ms: int | None = None
    generation_id: str | None = None

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
    status: Literal["error"] = "error"
    error: str
    error_code: ErrorCode
    processing_time_ms: int
    timestamp: str
    metadata: dict[str, Any] | None = None
    attempts: int | None = None
    waited_ms: int | None = None
    call_ms: int | None = None

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
    attempt: int = Field(ge=1)
    seq: int = Field(ge=0)
    text: str


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
