"""Sentry: one event for a final failure that an operator can do something about, and nothing of a prompt in it.

What is sent is listed, not what is left out: the kept parts of an event, of its contexts and spans, our own tags. Of
exceptions that is type and stack; their text only where it is known to hold no values (`gateway.reporting.tracebacks`).
"""

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import sentry_sdk

from gateway.errors import ErrorCode, GatewayError
from gateway.reporting.redaction import escape_controls, redact
from gateway.reporting.tracebacks import text_of

if TYPE_CHECKING:
    from gateway.settings import Settings

#: The same complaint to an operator is sent at most once in this time, in seconds.
TELL_AGAIN_S = 3600.0

#: Failures that every request meets until a person has acted: one event for all of them in that time.
FOR_AN_OPERATOR = frozenset({ErrorCode.AUTHENTICATION, ErrorCode.MODEL_NOT_FOUND})

#: How many complaints are remembered; some are about queues, whose names others choose.
_MOST_COMPLAINTS = 1000

#: The parts of an event that are sent; none of them is filled by anything but the SDK and this module.
_EVENT = frozenset(
    {"event_id", "timestamp", "start_timestamp", "type", "level", "platform", "environment", "release", "sdk"}
    | {"message", "exception", "tags", "fingerprint", "transaction", "transaction_info", "contexts", "spans"}
)
_CONTEXTS = frozenset({"trace", "runtime"})
_TAGS = frozenset({"request_id", "error_code", "reason", "model", "what"})
_SPAN = frozenset(
    {"trace_id", "span_id", "parent_span_id", "op", "status", "origin", "timestamp", "start_timestamp", "data"}
)
#: What Sentry's Queues page is made of.
_DATA = frozenset(
    {"messaging.system", "messaging.destination.name", "messaging.message.id", "messaging.message.body.size"}
    | {"messaging.message.receive.latency", "messaging.message.retry.count"}
)


def configure(settings: "Settings") -> None:
    """Start sending when a DSN is set; without one every function here does nothing."""
    if settings.sentry_dsn is None:
        return
    _hourly.forget()
    _secrets.clear()
    mask_also(settings.secrets())
    clean = _Cleaner()
    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        environment=settings.sentry_environment,
        traces_sample_rate=settings.sentry_traces_sample_rate,
        # The integrations attach whole messages (Dramatiq), headers (requests, HTTP), and log arguments (logging).
        default_integrations=False,
        auto_enabling_integrations=False,
        auto_session_tracking=False,
        include_local_variables=False,
        include_source_context=False,
        # send_default_pii stays unset, which means off: the SDK warns about whoever sets it, and its successor is new.
        max_breadcrumbs=0,
        before_breadcrumb=_drop,
        before_send=clean,
        before_send_transaction=clean,
        http_proxy="",  # HTTP_PROXY of the environment is for API calls
        https_proxy="",
        spotlight=False,  # a second address, which the environment could set
        debug=False,
    )
    sys.excepthook = _after_capture(sys.excepthook)
    threading.excepthook = _after_capture_in_thread(threading.excepthook)


def mask_also(secrets: Iterable[str]) -> None:
    """From now on these are in no event either."""
    _secrets.update(dict.fromkeys(secrets))


def traces() -> bool:
    """Whether SENTRY_TRACES_SAMPLE_RATE asks for any."""
    client = sentry_sdk.get_client()
    return client.is_active() and bool(client.options["traces_sample_rate"])


def close(timeout_s: float) -> None:
    """Send what is still waiting, for at most `timeout_s` seconds."""
    sentry_sdk.flush(timeout=timeout_s)


def capture_failure(
    error: GatewayError, *, request_id: str | None, model: str | None, cause: BaseException | None = None
) -> None:
    """One event for a request that has failed for good; failures of one kind are one issue.

    What fails every request until a person acts (`FOR_AN_OPERATOR`, or the error says so) is one event an hour.
    """
    reason = str(getattr(cause, "reason", None) or getattr(error, "reason", None) or type(cause or error).__name__)
    kind = [error.code.value, reason, escape_controls(model or "default")]
    if (error.code in FOR_AN_OPERATOR or getattr(error, "for_operator", False)) and not _hourly.first(tuple(kind)):
        return
    with sentry_sdk.new_scope() as scope:
        if request_id is not None:
            scope.set_tag("request_id", escape_controls(request_id))
        for tag, value in zip(("error_code", "reason", "model"), kind, strict=True):
            scope.set_tag(tag, value)
        scope.fingerprint = kind
        if cause is None or isinstance(cause, GatewayError):
            sentry_sdk.capture_message(f"Request failed: {error}", level="error", scope=scope)
        else:
            # A bug of ours: its stack says where.
            sentry_sdk.capture_exception(cause, scope=scope)


def capture_fault(error: BaseException, *, where: str) -> None:
    """One event an hour for a fault of ours of this type in this place; its stack says where."""
    if not _hourly.first((where, type(error))):
        return
    with sentry_sdk.new_scope() as scope:
        scope.set_tag("what", f"fault in {where}")
        scope.fingerprint = [where, type(error).__name__]
        sentry_sdk.capture_exception(error, scope=scope)


def tell_operator(what: str, text: str, *, about: str | None = None) -> None:
    """Tell an operator once an hour what only a person can mend: a refused key, an empty account, a full queue.

    `what` is a slug, `about` the masked key, the model or the queue; together they are one complaint.
    """
    if not _hourly.first((what, about)):
        return
    with sentry_sdk.new_scope() as scope:
        scope.set_tag("what", what)
        scope.fingerprint = [what, about or ""]
        sentry_sdk.capture_message(f"{what}: {text}" + (f" ({about})" if about else ""), level="warning", scope=scope)


class Once:
    """Lets the first of equal things pass, and again after `again_s` seconds. Thread-safe, of bounded size."""

    def __init__(self, again_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._again_s, self._clock = again_s, clock
        self._passed: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, thing: Hashable) -> bool:
        """True when no equal thing has passed in the last `again_s` seconds."""
        with self._lock:
            now = self._clock()
            passed = self._passed.get(thing)
            if passed is not None and now - passed < self._again_s:
                return False
            self._passed[thing] = now
            self._passed.move_to_end(thing)
            if len(self._passed) > _MOST_COMPLAINTS:
                self._passed.popitem(last=False)
            return True

    def forget(self) -> None:
        with self._lock:
            self._passed.clear()


_hourly = Once(TELL_AGAIN_S)

#: What is masked in every string that is sent.
_secrets: dict[str, None] = {}


class _Cleaner:
    """Keeps the listed parts of an event, and masks the secrets in every string of those."""

    def __call__(self, event: Any, hint: Any) -> Any:
        hint.pop("attachments", None)
        kept = _only(event, _EVENT)
        if "exception" in kept:
            kept["exception"] = {"values": _without_texts(kept["exception"], (hint.get("exc_info") or (None, None))[1])}
        kept["contexts"] = _only(kept.get("contexts"), _CONTEXTS)
        if "trace" in kept["contexts"]:
            kept["contexts"]["trace"] = _span(kept["contexts"]["trace"])
        kept["tags"] = _only(kept.get("tags"), _TAGS)
        if "spans" in kept:
            kept["spans"] = [_span(span) for span in kept["spans"]]
        return self._masked(kept)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return redact(value, tuple(_secrets))
        if isinstance(value, Mapping):
            return {name: self._masked(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(inner) for inner in value]
        return value


def _only(part: Any, names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name in names} if isinstance(part, Mapping) else {}


def _span(part: Any) -> dict[str, Any]:
    kept = _only(part, _SPAN)
    return kept | {"data": _only(kept.get("data"), _DATA)}


def _without_texts(exception: Any, error: BaseException | None) -> list[dict[str, Any]]:
    """Type, place and stack of each exception of a chain, and what may be shown of the last one's text."""
    links = [_only(link, frozenset({"type", "module", "stacktrace"})) for link in exception.get("values") or []]
    if links and error is not None and links[-1].get("type") == type(error).__name__:
        links[-1]["value"] = text_of(error)
    return links


def _drop(_breadcrumb: Any, _hint: Any) -> None:
    """No breadcrumb is kept: they are log lines, queries and calls."""


def _after_capture(otherwise: Callable[..., object]) -> Callable[..., None]:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sentry_sdk.capture_exception(error)
            close(timeout_s=2.0)  # nothing comes after this
        otherwise(kind, error, trace)

    return hook


def _after_capture_in_thread(otherwise: Callable[..., object]) -> Callable[..., None]:
    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            sentry_sdk.capture_exception(args.exc_value)
        otherwise(args)

    return hook
