"""What a client raises, one tree.

    ClientError
    ├── NotSent            the request is not in RabbitMQ: send it again
    │   └── NoWorker       nobody has ever declared the request queue
    ├── SendUnknown        RabbitMQ has not said whether it has the request
    ├── Disconnected       RabbitMQ has the request, and the connection on which its answer was to come is gone
    ├── NoAnswer           none within the time; the request goes on
    └── RequestFailed      the worker's error envelope; a class for each `error_code`

A client with a named queue that does not know what became of a request sends it again, with the same `request_id` and
content: the worker knows it, and pays once. By direct reply-to it would be another request, and paid for again.
"""

from collections.abc import Mapping
from typing import Any

from gateway.errors import ErrorCode


class ClientError(Exception):
    """Root of the tree; `request_id` is None where the trouble is not one request's."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class NotSent(ClientError):
    """RabbitMQ does not have the request: nothing is called for it."""


class NoWorker(NotSent):
    """The request queue does not exist."""

    def __init__(self, queue: str, *, request_id: str | None) -> None:
        text = f"The queue {queue} does not exist: start a worker, which declares it (script/run, or gemini run)"
        super().__init__(text, request_id=request_id)


class SendUnknown(ClientError):
    """The connection ended, or time was up, before RabbitMQ confirmed the request: it may have it."""


class Disconnected(ClientError):
    """The request is confirmed and will be answered; `collectable` says whether its answer waits in a named queue."""

    def __init__(self, request_id: str, *, collectable: bool) -> None:
        there = f"collect({request_id!r}) reads it" if collectable else "it is lost with the connection"
        super().__init__(
            f"The connection ended while request {request_id} was waited for. It will be answered, {there}",
            request_id=request_id,
        )
        self.collectable = collectable


class NoAnswer(ClientError):
    """Nothing came within `timeout_s` seconds."""

    def __init__(self, request_id: str, timeout_s: float) -> None:
        super().__init__(f"No answer to {request_id} within {timeout_s:g} s", request_id=request_id)
        self.timeout_s = timeout_s


class RequestFailed(ClientError):
    """The worker has answered with an error: `code` is its `error_code`, `envelope` all of it."""

    def __init__(self, envelope: Mapping[str, Any], *, request_id: str | None) -> None:
        super().__init__(str(envelope.get("error", "")), request_id=request_id)
        self.envelope = envelope
        self.code = str(envelope.get("error_code", ErrorCode.INTERNAL))


class InvalidRequest(RequestFailed): ...


class CallbackRefused(RequestFailed): ...


class ModelNotFound(RequestFailed): ...


class ContentBlocked(RequestFailed): ...


class OutputExhausted(RequestFailed): ...


class AuthenticationRefused(RequestFailed): ...


class RateLimited(RequestFailed): ...


class UpstreamFailed(RequestFailed): ...


class CallTimedOut(RequestFailed): ...


class Expired(RequestFailed): ...


class Cancelled(RequestFailed): ...


class BudgetSpent(RequestFailed): ...


class InternalFault(RequestFailed): ...


#: The class of each code. A code of a newer worker is a plain RequestFailed.
BY_CODE: Mapping[str, type[RequestFailed]] = {
    ErrorCode.INVALID_REQUEST: InvalidRequest,
    ErrorCode.CALLBACK_REFUSED: CallbackRefused,
    ErrorCode.MODEL_NOT_FOUND: ModelNotFound,
    ErrorCode.CONTENT_BLOCKED: ContentBlocked,
    ErrorCode.OUTPUT_EXHAUSTED: OutputExhausted,
    ErrorCode.AUTHENTICATION: AuthenticationRefused,
    ErrorCode.RATE_LIMIT: RateLimited,
    ErrorCode.UPSTREAM: UpstreamFailed,
    ErrorCode.TIMEOUT: CallTimedOut,
    ErrorCode.EXPIRED: Expired,
    ErrorCode.CANCELLED: Cancelled,
    ErrorCode.BUDGET: BudgetSpent,
    ErrorCode.INTERNAL: InternalFault,
}


def failure(envelope: Mapping[str, Any], request_id: str | None) -> RequestFailed:
    """The error that an envelope tells."""
    kind = BY_CODE.get(str(envelope.get("error_code")), RequestFailed)
    return kind(envelope, request_id=request_id)
