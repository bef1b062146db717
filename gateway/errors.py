"""Every error of the gateway, one tree; foreign exceptions are translated into it once, at the boundary.

    GatewayError                       code: what the error envelope says in `error_code`
    ├── ProviderError                  what a provider's answer, or its silence, means
    │   ├── RequestRejected            this request can never succeed: final
    │   │   └── CallTooLarge           the account cannot pay for its cap on tokens: may be asked for with less
    │   ├── AuthenticationFailed       this key or account may not call: another key may
    │   ├── RateLimited                this key, account or model must rest: another key may help
    │   └── UpstreamFailed             the provider is at fault, the key is fine: short schedule
    ├── KeysUnavailable                no key may be used now: long schedule
    │   └── BudgetSpent                nothing more is to be spent today: batch waits, for others final
    ├── Unwanted                       nobody waits for the answer any more, expired or cancelled: final
    ├── InvalidMessage                 bytes that are not a request
    ├── PublishError                   RabbitMQ has not confirmed a message
    │   ├── Unroutable                 the queue does not exist
    │   ├── Nacked                     the queue refused it (full, reject-publish)
    │   │   └── TooLarge               no queue takes it: it is larger than `max_message_size`
    │   ├── ConfirmTimeout             no answer within the deadline; it may have been stored
    │   └── ConnectionLost             the connection ended first; it may have been stored
    ├── TopologyError                  RabbitMQ does not have, or does not let us have, a queue we need
    └── StoreUnavailable               the key or ledger store cannot be reached

The text of an error may end up in an envelope, a log line and Sentry: it holds no key, prompt or answer.
"""

from enum import StrEnum

from gateway.bills import Bill


class ErrorCode(StrEnum):
    """The closed list of values of `error_code` in an error envelope."""

    INVALID_REQUEST = "invalid_request"
    CALLBACK_REFUSED = "callback_refused"
    MODEL_NOT_FOUND = "model_not_found"
    CONTENT_BLOCKED = "content_blocked"
    OUTPUT_EXHAUSTED = "output_exhausted"
    AUTHENTICATION = "authentication"
    RATE_LIMIT = "rate_limit"
    UPSTREAM = "upstream"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    BUDGET = "budget"
    INTERNAL = "internal"


class Scope(StrEnum):
    """What an error is about, and so what must rest after it."""

    REQUEST = "request"
    KEY = "key"
    ACCOUNT = "account"
    MODEL = "model"
    UPSTREAM = "upstream"


class GatewayError(Exception):
    """Root of the tree; `code` is what a producer reads, `str()` is safe to show.

    `may_be_billed`: of a call that was sent, and nobody has read an answer to its end.
    """

    code: ErrorCode = ErrorCode.INTERNAL
    may_be_billed = False

    def __init__(self, message: str, *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class ProviderError(GatewayError):
    """A provider did not complete the request.

    `scope` says what is at fault, `status` is the HTTP status (or the code inside a 200; None for a transport fault),
    `retry_after_s` is the wait the provider stated in seconds, None when it stated none, `reason` a short slug for logs
    and cooldowns such as `openrouter_free_tier_daily` or `http_429`. `is_named` says that the provider has named the
    cause; otherwise it is read from the status, which is a guess. `for_operator` marks what only a person can mend.
    `bill` is what it has cost all the same, None where the provider does not say.
    """

    scope: Scope = Scope.UPSTREAM
    code = ErrorCode.UPSTREAM
    bill: Bill | None = None

    def __init__(  # noqa: PLR0913 - facts, all by name
        self,
        message: str,
        *,
        reason: str,
        code: ErrorCode | None = None,
        scope: Scope | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        is_named: bool = False,
        for_operator: bool = False,
    ) -> None:
        super().__init__(message, code=code)
        self.reason = reason
        self.status = status
        self.retry_after_s = retry_after_s
        self.is_named = is_named
        self.for_operator = for_operator
        if scope is not None:
            self.scope = scope


class RequestRejected(ProviderError):
    """This request can never succeed as it is: answered with an error at once."""

    scope = Scope.REQUEST
    code = ErrorCode.INVALID_REQUEST


class CallTooLarge(RequestRejected):
    """What is left in the account pays for `affordable_tokens` of completion, and the call asks for more.

    None where the provider does not say how many. With `is_of_key` it is the key's own limit, not the account's
    credits. Final, unless it is asked for with so many, or with the key of another account.
    """

    affordable_tokens: int | None = None
    is_of_key = False


class AuthenticationFailed(ProviderError):
    """The key (or its account) may not make this call; `scope` is KEY or ACCOUNT."""

    scope = Scope.KEY
    code = ErrorCode.AUTHENTICATION


class RateLimited(ProviderError):
    """A limit was hit; `scope` is KEY, ACCOUNT or MODEL, and that is what cools down."""

    scope = Scope.KEY
    code = ErrorCode.RATE_LIMIT


class UpstreamFailed(ProviderError):
    """The provider or the way to it failed; the key is fine."""

    scope = Scope.UPSTREAM
    code = ErrorCode.UPSTREAM


class KeysUnavailable(GatewayError):
    """No key may be used for this model now.

    `retry_in_s` is the time until the first one returns; `refused` is True when every key is benched because the
    provider refused it (401, 402, 403), so that waiting cannot help. `called` is True when the request itself had a key
    and was limited.
    """

    called = False

    code = ErrorCode.RATE_LIMIT

    def __init__(self, message: str, *, retry_in_s: float, refused: bool = False) -> None:
        super().__init__(message, code=ErrorCode.AUTHENTICATION if refused else None)
        self.retry_in_s = retry_in_s
        self.refused = refused


class BudgetSpent(KeysUnavailable):
    """BUDGET_USD_PER_DAY is spent; `retry_in_s` is the time until the day ends."""

    code = ErrorCode.BUDGET


class Unwanted(GatewayError):
    """Nobody waits for the answer any more: no call is made for it, or goes on; `code` is EXPIRED or CANCELLED."""

    code = ErrorCode.EXPIRED


class InvalidMessage(GatewayError):
    """Bytes that are not a request; the text names the fields at fault and never their values.

    `request_id` and `callback_queue` are what could still be read, so that the sender can be answered.
    """

    code = ErrorCode.INVALID_REQUEST

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        request_id: str | None = None,
        callback_queue: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.request_id = request_id
        self.callback_queue = callback_queue


class PublishError(GatewayError):
    """RabbitMQ has not confirmed a message; `queue` is where it was meant to go."""

    def __init__(self, message: str, *, queue: str) -> None:
        super().__init__(message)
        self.queue = queue


class Unroutable(PublishError):
    """The queue does not exist: RabbitMQ returned the message."""


class Nacked(PublishError):
    """The queue exists and refused the message, as a full queue with `reject-publish` does."""


class TooLarge(Nacked):
    """The message is larger than RabbitMQ takes, wherever it goes: another try is in vain."""


class ConfirmTimeout(PublishError):
    """No confirm within the deadline; the message may have been stored."""


class ConnectionLost(PublishError):
    """The connection or channel ended before the confirm; the message may have been stored."""


class TopologyError(GatewayError):
    """RabbitMQ does not have, or does not let us have, a queue that we need; the text is one line for an operator."""


class StoreUnavailable(GatewayError):
    """The store of keys and ledger cannot be reached; nothing is called without it."""
