"""A key that cannot be printed by accident."""

import hashlib
from collections.abc import Callable

_SHORTEST_WITH_A_TAIL = 12


class ApiKey:
    """An API key whose every textual form is `****1234`; the value leaves only through `reveal()`.

    `digest` (the first 16 hex digits of the SHA-256) identifies the key in stores and logs of other machines.
    `label` is an operator's name for its account, None when there is none.
    """

    __slots__ = ("_reveal", "digest", "label", "masked")

    def __init__(self, value: str, *, label: str | None = None) -> None:
        # The value lives in a closure, not in an attribute: vars(), pickles and debuggers' frame dumps show none of it.
        self._reveal: Callable[[], str] = lambda: value
        self.digest = hashlib.sha256(value.encode()).hexdigest()[:16]
        self.label = label
        self.masked = mask(value)

    @property
    def name(self) -> str:
        """What people call it: masked, and with its label."""
        return f"{self.masked} ({self.label})" if self.label else self.masked

    def reveal(self) -> str:
        """The key itself, for the one line that puts it into a header."""
        return self._reveal()

    def __repr__(self) -> str:
        return f"ApiKey({self.masked})"

    def __str__(self) -> str:
        return self.masked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> str:
        raise TypeError("an API key is not serialised")


def mask(value: str) -> str:
    """`****` and the last four characters; a value too short to lose four stays hidden altogether."""
    return "****" + value[-4:] if len(value) >= _SHORTEST_WITH_A_TAIL else "****"
