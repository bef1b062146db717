"""A call that has cost something, as it is kept: nothing of it is a prompt, an answer or a key."""

import hashlib
import math
import secrets
import time
from dataclasses import dataclass

from gateway.bills import Bill
from gateway.reporting.redaction import escape_controls

#: Billionths of a dollar, so that sums are exact.
NANO = 1_000_000_000

#: More than this no call costs, in dollars, and none has so many tokens: what says so is not believed.
MOST_DOLLARS, MOST_TOKENS = 1_000_000.0, 10**12

#: How long a name may be, in characters.
LONGEST_NAME = 120


#: The fields of a call but its id, in their order: a row as stores have it.
Row = tuple[str, str, str, int, int, int | None, str, str, int]


@dataclass(frozen=True, slots=True)
class PaidCall:
    """One call; written twice under the same `id` it counts once.

    `key` is the digest of its key, `request` one of the request's id. `cost_nano` is in billionths of a dollar, None
    where the provider does not say. Of one that was `cut_off` nobody has seen the end: it may have been paid for.
    """

    id: str
    key: str
    model: str
    tag: str
    prompt_tokens: int
    completion_tokens: int
    cost_nano: int | None
    generation_id: str
    request: str
    cut_off: bool = False

    @classmethod
    def of(cls, bill: Bill, *, key: str, tag: str, request_id: str) -> "PaidCall":
        """The call that this bill is for."""
        return cls(
            id=f"{time.time_ns() >> 20:012x}{secrets.token_hex(6)}",  # by time: a table grows at its end
            key=key,
            model=_name(bill.model),
            tag=_name(tag),
            prompt_tokens=min(bill.prompt_tokens, MOST_TOKENS),
            completion_tokens=min(bill.completion_tokens, MOST_TOKENS),
            cost_nano=_nano(bill.cost),
            generation_id=_name(bill.generation_id or ""),
            request=request_digest(request_id),
        )

    @classmethod
    def lost(cls, what: str, *, key: str = "", model: str, tag: str, request_id: str) -> "PaidCall":
        """A call whose end nobody has seen; of equal `what` there is one."""
        digest = hashlib.sha256(what.encode()).hexdigest()[:24]
        return cls(digest, key, _name(model), _name(tag), 0, 0, None, "", request_digest(request_id), cut_off=True)

    @property
    def row(self) -> Row:
        counts = (self.prompt_tokens, self.completion_tokens, self.cost_nano)
        return (self.key, self.model, self.tag, *counts, self.generation_id, self.request, int(self.cut_off))

    @classmethod
    def of_row(cls, id_: str, row: Row) -> "PaidCall":
        return cls(id_, *row[:-1], cut_off=bool(row[-1]))


def request_digest(request_id: str) -> str:
    """By which the rows of a request are found: the id itself is somebody else's text, of any length."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:16]


def _name(text: str) -> str:
    return escape_controls(text, LONGEST_NAME)


def _nano(cost: float | None) -> int | None:
    if cost is None or not math.isfinite(cost) or not 0 <= cost <= MOST_DOLLARS:
        return None
    return round(cost * NANO)
