"""Quotes around values: `docker run --env-file` and lists in compose files hand them over, a shell takes them off."""

from typing import Final

_QUOTES: Final = ("'", '"')


def unquoted(value: str) -> str:
    """`value` without matching quotes around it; quotes inside are somebody's text, or several values."""
    bare = value.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in _QUOTES and bare[0] not in bare[1:-1]:
        return unquoted(bare[1:-1])
    return value
