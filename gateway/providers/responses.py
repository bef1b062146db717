"""From an HTTP answer to a completion or an error: what is common to the providers. Pure.

A provider's module normalises its failed answers, an error status or an error inside a 200, into a `Fault`, and keeps
its decisions as a table of `Rule`; `judge` applies the first rule that fits.
"""

import json
import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Never

from gateway.errors import ErrorCode, ProviderError, RequestRejected, Scope, UpstreamFailed
from gateway.reporting.redaction import escape_controls

#: Takes secrets and prompts out of a provider's text.
Hide = Callable[[str], str]

#: More of a provider's error text is no help to the reader of an envelope.
MAX_TEXT_CHARS: Final = 300
#: Read this much of a text before secrets are taken out of it and it is cut: a bound on the work.
_MAX_READ_CHARS = 4096
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


class _Any(Container[int]):
    def __contains__(self, status: object) -> bool:
        return True


ANY_STATUS: Final = _Any()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP: the status, the headers in whatever case, the whole body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    def header(self, name: str) -> str | None:
        """The value of a header, None where it is missing."""
        return next((value for header, value in self.headers.items() if header.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed answer in a provider's own words.

    `status` is the HTTP status, or the code inside a 200. `source` names the limit or cause where the provider does.
    `signs` is the lower-case text in which markers are looked for. `from_provider` says that the call had got through
    to the model's provider. `wait_s` is the wait that was asked for.
    """

    status: int
    message: str = field(default="", repr=False)
    source: str = ""
    signs: str = field(default="", repr=False)
    from_provider: bool = False
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a decision table: which faults it fits, what they mean, and why.

    A condition that is left out fits every fault. `reason` is the slug of the error; without one it is the fault's
    source where the rule is about sources, else `http_<status>`.
    """

    why: str
    error: type[ProviderError]
    scope: Scope | None = None
    code: ErrorCode | None = None
    reason: str = ""
    sources: frozenset[str] = frozenset()
    markers: tuple[str, ...] = ()
    from_provider: bool = False
    states_wait: bool = False
    statuses: Container[int] = ANY_STATUS

    def fits(self, fault: Fault) -> bool:
        return (
            fault.status in self.statuses
            and (not self.sources or fault.source in self.sources)
            and (not self.markers or any(marker in fault.signs for marker in self.markers))
            and (fault.from_provider or not self.from_provider)
            and (fault.wait_s is not None or not self.states_wait)
        )

    def slug(self, fault: Fault) -> str:
        return self.reason or (fault.source if self.sources else f"http_{fault.status}")


def judge(fault: Fault, table: tuple[Rule, ...], *, who: str, hide: Hide) -> ProviderError:
    """The error that the first fitting rule of `table` makes of `fault`; the last rule has to fit everything."""
    rule = next(rule for rule in table if rule.fits(fault))
    text = _shown(fault.message, hide)
    return rule.error(
        f"{who} answered {fault.status}: {text}" if text else f"{who} answered {fault.status}",
        reason=rule.slug(fault),
        code=rule.code,
        scope=rule.scope,
        status=fault.status,
        retry_after_s=fault.wait_s,
    )


def blocked(who: str) -> RequestRejected:
    """The provider's filter withheld the answer: final."""
    text = f"{who} withheld the answer: blocked by a content filter"
    return RequestRejected(text, reason="content_blocked", code=ErrorCode.CONTENT_BLOCKED, status=HTTPStatus.OK)


def exhausted(who: str) -> RequestRejected:
    """The cap on output tokens was used up before the first word of an answer: final."""
    text = f"{who} returned no text: reasoning used up max_output_tokens"
    return RequestRejected(text, reason="output_exhausted", code=ErrorCode.OUTPUT_EXHAUSTED, status=HTTPStatus.OK)


def unusable(who: str, what: str, *, reason: str) -> UpstreamFailed:
    """A success in name only: the provider's fault, worth another try."""
    return UpstreamFailed(f"{who} answered 200 with {what}", reason=reason, status=HTTPStatus.OK)


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`; None when it holds anything else, however deep or broken."""
    try:
        content = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def first(value: object) -> Mapping[str, Any]:
    """The first item of a JSON array of objects, else an empty one."""
    return mapping(value[0]) if isinstance(value, list) and value else {}


def string(value: object) -> str:
    """`value` if it is a string, else an empty one. A lone surrogate, which no encoder takes, becomes U+FFFD."""
    return _LONE_SURROGATES.sub("\ufffd", value) if isinstance(value, str) else ""


def name(value: object) -> str:
    """A short name or identifier, safe to show."""
    return escape_controls(string(value))


def tool_calls(value: object) -> list[dict[str, Any]] | None:
    """Calls of tools in the form of OpenAI's API, which OpenRouter has; None where there are none."""
    calls = [mapping(call) for call in value] if isinstance(value, list) else []
    return [tool_call(string(call.get("id")), mapping(call.get("function"))) for call in calls] or None


def tool_call(call_id: str, function: Mapping[str, Any]) -> dict[str, Any]:
    """One call; what its arguments are is for the producer to read."""
    called = {"name": string(function.get("name")), "arguments": string(function.get("arguments"))}
    return {"id": call_id, "type": "function", "function": called}


def count(value: object) -> int | None:
    """A number of tokens; None for whatever is not one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def amount(value: object) -> float | None:
    """A finite sum of money, not below zero; None for whatever is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        cost = float(value)
    except OverflowError:
        return None
    return cost if math.isfinite(cost) and cost >= 0 else None


def _shown(message: str, hide: Hide) -> str:
    if len(message) > _MAX_READ_CHARS:
        # Without its last word: half a key does not look like a key.
        message = message[:_MAX_READ_CHARS].rsplit(None, 1)[0] + "…"
    return escape_controls(hide(message.strip()), limit=MAX_TEXT_CHARS)


def _no_number(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")
