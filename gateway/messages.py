"""The public messages (request, success, error) and the job that the worker makes of a request.

The field names are a contract with other programs; see the README. Models hold prompts and answers, so their `repr`
shows the request id only.
"""

import math
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from gateway.errors import ErrorCode, GatewayError

#: The form of `Job` and of `Reply` on the wire. A worker reads this form and the one before it.
WIRE_VERSION: Literal[1] = 1


def fits_amqp(value: str) -> bool:
    """Whether it is one of AMQP's short strings, which carry ids and queue names and end at 255 bytes."""
    return len(value.encode()) <= 255  # noqa: PLR2004 - the limit of the protocol


def _short(value: str) -> str:
    if not fits_amqp(value):
        raise ValueError("longer than 255 bytes")
    return value


def _whole(value: Any) -> Any:
    """JSON has one kind of numbers: 2048.0 is the integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]

ShortString = Annotated[str, StringConstraints(min_length=1), AfterValidator(_short)]


def _instant(value: str) -> str:
    """A time that everybody reads as the same; its text stays as it is."""
    try:
        has_zone = datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        has_zone = False
    if not has_zone:
        raise ValueError("not a time such as 2026-01-01T00:00:00Z: ISO 8601 with a date, a time, and Z or an offset")
    return value


Instant = Annotated[str, AfterValidator(_instant)]


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds and `Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, protected_namespaces=())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'request_id', '…')!r})"

    __str__ = __repr__


class Parameters(_Message):
    """Sampling parameters, each passed on only when given."""

    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: Whole | None = Field(default=None, ge=1, le=1_000_000)
    max_output_tokens: Whole | None = Field(default=None, ge=1, le=10_000_000)


class Request(_Message):
    """One request as a producer publishes it to `gemini.requests`."""

    request_id: ShortString
    prompt: Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    parameters: Parameters = Parameters()
    system_instruction: str | None = None
    metadata: dict[str, Any] | None = None
    callback_queue: ShortString
    timestamp: str | int | float | None = None
    retry_count: Whole = Field(default=0, ge=0, le=1_000)
    expires_at: Instant | None = None
    expires_in_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)


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


class Job(_Message):
    """A request on its way through the worker: the only argument of the actor `generate`.

    `retry_count` counts finished or running waits for a key, `upstream_retries` those for the provider.
    `received_at` is epoch seconds when the request was read: `processing_time_ms` counts from there.
    `hop` counts the copies that were sent to wait: of two copies of a delivery, only the later one is worked on.
    `wait_counts` says whether the running wait for a key is in `retry_count`.
    `redriven` counts how often an operator has sent it again after it was dead.
    `expires_at` is epoch seconds from when on nobody waits for the answer, None for a request without a deadline.
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

    @classmethod
    def of(
        cls,
        request: Request,
        *,
        received_at: float,
        redelivered: bool = False,
        caller: Caller = NOBODY,
        expires_at: float | None = None,
    ) -> Self:
        """The first job of a request; a producer may start it further up the schedule with `retry_count`."""
        return cls(
            request=request,
            received_at=received_at,
            retry_count=request.retry_count,
            redelivered=redelivered,
            caller=caller,
            expires_at=expires_at,
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
    """What a provider answered: the text, what it cost, the model that served it, and why it stopped."""

    content: str = field(repr=False)
    usage: Usage
    model_used: str
    generation_id: str | None = None
    finish_reason: str | None = None  # one of a few: `gateway.providers.endings`


class Success(_Message):
    """The envelope of an answered request."""

    request_id: str
    status: Literal["success"] = "success"
    content: str
    usage: Usage
    processing_time_ms: int
    model_used: str
    finish_reason: str | None = None
    timestamp: str
    metadata: dict[str, Any] | None = None

    @classmethod
    def of(cls, job: Job, completion: Completion, *, processing_time_ms: int) -> Self:
        return cls(
            request_id=job.request_id,
            content=completion.content,
            usage=completion.usage,
            processing_time_ms=processing_time_ms,
            model_used=completion.model_used,
            finish_reason=completion.finish_reason,
            timestamp=now(),
            metadata=job.request.metadata,
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

    @classmethod
    def of(
        cls,
        error: GatewayError,
        *,
        request_id: str | None,
        processing_time_ms: int,
        metadata: dict[str, Any] | None = None,
    ) -> Self:
        return cls(
            request_id=request_id,
            error=str(error),
            error_code=error.code,
            processing_time_ms=processing_time_ms,
            timestamp=now(),
            metadata=metadata,
        )


Envelope = Success | Failure

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
