"""Regular expressions of strangers, matched in linear time by the engine of pydantic, and bounded in size.

Linear in the text, that is. The engine writes counted repetitions out, and a class of all letters is hundreds of
states: a pattern of ten characters can take a second and megabytes to compile. So its size is estimated before.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

MAX_PATTERN_CHARS: Final = 512
#: Of all patterns of a schema, in µs that it takes to compile them; bounds their memory to some megabytes, too.
MAX_WEIGHT: Final = 100_000
#: A pattern counts as at least this: those of a schema find room among those that are kept.
_LEAST: Final = 2_000
_KEPT: Final = 64

#: The weight of a class, by the letter of its escape, and of any other character or class.
_OF_ESCAPES: Final = {**dict.fromkeys("wWpP", 300), **dict.fromkeys("dD", 40)}
_OF_OTHERS: Final = 10

_TOKEN: Final = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\.", re.DOTALL)
_FLAGS: Final = re.compile(r"\(\?(?![:<P])")


class UnusablePattern(Exception):
    """It cannot be matched within bounds; the text says why and quotes nothing of it."""


class Pattern:
    """A compiled pattern; `states` times the characters of a text bounds the steps of a match."""

    def __init__(self, text: str) -> None:
        self.states = _size(text, lambda _piece: 1)
        try:
            self._validator = SchemaValidator(core_schema.str_schema(pattern=text))
        except SchemaError:
            raise UnusablePattern("a pattern is none, looks around, or refers back: these cannot be checked") from None

    def matches(self, text: str) -> bool:
        """Whether it is somewhere in `text`."""
        return self._validator.isinstance_python(text)


@lru_cache(maxsize=_KEPT)
def compiled(text: str) -> Pattern:
    """Raises UnusablePattern. Ask for its `weight` before."""
    return Pattern(text)


def weight(text: str) -> int:
    """What it costs to compile. Raises UnusablePattern for what is too long, and for what would make a guess wrong."""
    if len(text) > MAX_PATTERN_CHARS:
        raise UnusablePattern(f"a pattern is longer than {MAX_PATTERN_CHARS} characters")
    if _FLAGS.search(text):
        raise UnusablePattern("a pattern has flags or looks around: these cannot be checked")
    return max(_LEAST, _size(text, _weight))


def _weight(piece: str) -> int:
    if piece.startswith("[") and ("[" in _ESCAPE.sub("", piece)[1:] or piece in {"[]", "[^]"}):
        raise UnusablePattern("a pattern has an empty class, or a class in a class: these cannot be checked")
    return max((_OF_ESCAPES.get(escape[1], 0) for escape in _ESCAPE.findall(piece)), default=0) or _OF_OTHERS


def _size(text: str, weigh: Callable[[str], int]) -> int:
    """The sum over all tokens, each as often as counted repetitions write it out."""
    open_groups, last = [0], 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "(":
                open_groups.append(0)
            case ")" if len(open_groups) > 1:
                last = open_groups.pop()
                open_groups[-1] += last
            case "*" | "+" | "?":
                pass
            case piece if piece.startswith("{") and piece != "{":
                times = max(1, int(token[2] or token[1] or 1))
                open_groups[-1] += last * (times - 1)
                last *= times
            case piece:
                last = weigh(piece)
                open_groups[-1] += last
    return sum(open_groups)
