"""Sentry: one event for a final failure that an operator can do something about, and nothing of a prompt in it."""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sentry_sdk

from gateway.errors import GatewayError
from gateway.redaction import redact

if TYPE_CHECKING:
    from gateway.settings import Settings

#: The same complaint to an operator is sent at most once in this time, in seconds.
TELL_AGAIN_S = 3600.0

#: Parts of an event that could hold a message, and that no operator needs.
DROPPED = ("breadcrumbs", "extra", "request", "user", "modules", "server_name")

_told: dict[tuple[str, str | None], float] = {}
_lock = threading.Lock()


def configure(settings: "Settings") -> None:
    """Start sending when a DSN is set; without one every function here does nothing."""
    if settings.sentry_dsn is None:
        return
    clean = _Cleaner(tuple(settings.secrets()))
    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        environment=settings.sentry_environment,
        traces_sample_rate=settings.sentry_traces_sample_rate,
        # The integrations attach whole messages (Dramatiq), headers (requests, HTTP), and log arguments (logging).
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        include_source_context=False,
        send_default_pii=False,
        max_breadcrumbs=0,
        before_send=clean,
        before_send_transaction=clean,
        http_proxy="",  # HTTP_PROXY of the environment is for API calls
        https_proxy="",
    )


def close(timeout_s: float) -> None:
    """Send what is still waiting, for at most `timeout_s` seconds."""
    sentry_sdk.flush(timeout=timeout_s)


def capture_failure(
    error: GatewayError, *, request_id: str, model: str | None, cause: BaseException | None = None
) -> None:
    """One event for a request that has failed for good; failures of one kind are one issue."""
    reason = str(getattr(cause, "reason", None) or type(cause).__name__)
    with sentry_sdk.new_scope() as scope:
        scope.set_tag("request_id", request_id)
        scope.set_tag("error_code", error.code.value)
        scope.set_tag("model", model or "default")
        scope.fingerprint = [error.code.value, reason, model or "default"]
        if isinstance(cause, GatewayError) or cause is None:
            sentry_sdk.capture_message(f"Request failed: {error}", level="error", scope=scope)
        else:
            # A bug of ours: its stack says where, its text may hold anything and is dropped below.
            sentry_sdk.capture_exception(cause, scope=scope)


def tell_operator(what: str, text: str, *, about: str | None = None) -> None:
    """Tell an operator once an hour what only a person can mend: a refused key, an empty account, a full queue."""
    with _lock:
        now = time.monotonic()
        if now - _told.get((what, about), -TELL_AGAIN_S) < TELL_AGAIN_S:
            return
        _told[what, about] = now
    with sentry_sdk.new_scope() as scope:
        scope.set_tag("what", what)
        scope.fingerprint = [what, about or ""]
        sentry_sdk.capture_message(f"{what}: {text}" + (f" ({about})" if about else ""), level="warning", scope=scope)


class _Cleaner:
    """Walks every string of an event; drops the parts that could hold a message."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets

    def __call__(self, event: Any, _hint: Any) -> Any:
        kept = {name: value for name, value in event.items() if name not in DROPPED}
        for exception in kept.get("exception", {}).get("values", []):
            exception["value"] = ""
        return self._clean(kept)

    def _clean(self, value: Any) -> Any:
        if isinstance(value, str):
            return redact(value, self._secrets)
        if isinstance(value, Mapping):
            return {name: self._clean(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._clean(inner) for inner in value]
        return value
