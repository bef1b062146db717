"""The four headers by which traces of several programs are one. Pure.

    traceparent, tracestate   https://www.w3.org/TR/trace-context/
    baggage                   https://www.w3.org/TR/baggage/
    sentry-trace              https://develop.sentry.dev/sdk/telemetry/traces/

They go from a request to its answer as they came, and are the only headers that do. Each is checked for its form and
its length: whoever reads the answer hands them to a library, and they lie in our queues as long as the request does.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SENTRY_TRACE: Final = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}(-[01])?")
_STATE: Final = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
_ITEM: Final = re.compile(
    r"[!#-'*+.^-z|~\-0-9A-Z]{1,256}[ \t]?=[ \t]?[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e;= \t]{0,1024}"
)

#: How long a header may be, in characters, and how many members a list may have: what the specifications ask for.
LONGEST_STATE, MOST_STATES = 512, 32
LONGEST_BAGGAGE, MOST_ITEMS = 8192, 64


def trace_of(headers: object) -> dict[str, str] | None:
    """Those of the headers that are a trace, by their names; None without one."""
    if not isinstance(headers, dict):
        return None
    found: dict[str, str] = {name: headers[name] for name, is_good in _FORMS.items() if is_good(headers.get(name))}
    if "traceparent" not in found:
        found.pop("tracestate", None)  # which says something about that one only
    return found or None


def _matches(form: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_list(form: re.Pattern[str], value: Any, longest: int, most: int) -> bool:
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        return False
    members = [member.strip(" \t") for member in value.split(",")]
    return len(members) <= most and all(form.fullmatch(member) for member in members)


_FORMS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "traceparent": lambda value: _matches(_TRACEPARENT, value),
    "tracestate": lambda value: _is_list(_STATE, value, LONGEST_STATE, MOST_STATES),
    "sentry-trace": lambda value: _matches(_SENTRY_TRACE, value),
    "baggage": lambda value: _is_list(_ITEM, value, LONGEST_BAGGAGE, MOST_ITEMS),
}

#: In a message of ours: checked again when it is read, for anybody who may publish can forge one.
Trace = Annotated[dict[str, str] | None, BeforeValidator(trace_of)]
