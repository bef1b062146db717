"""What the doctor says of one thing."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from gateway.errors import GatewayError

#: `failed`: requests are not answered, or get lost. `warning`: they soon may. `unknown`: it could not be looked at.
Level = Literal["ok", "warning", "failed", "unknown"]


@dataclass(frozen=True)
class Finding:
    """`area` is what was looked at, `remedy` what to do; None where nothing is to be done."""

    area: str
    level: Level
    what: str
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def ok(area: str, what: str) -> Finding:
    return Finding(area, "ok", what)


def of_error(area: str, error: GatewayError, *, remedy: str = "") -> Finding:
    """Our errors for operators say behind a colon, or in their last sentence, what to do."""
    text = str(error)
    for sign, before in ((". See ", "see "), (": ", "")):
        what, found, advice = text.partition(sign)
        if found and not remedy:
            return Finding(area, "failed", what, before + advice)
    return Finding(area, "failed", text, remedy or "see its log")
