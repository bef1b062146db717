"""Names of parameters that there are none of: what is refused, and what may have been meant."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from gateway.messages import Parameters, Request

_KNOWN: Final = dict.fromkeys(Parameters.model_fields)
#: What looks like a name is one, and may be shown; anything else could be a prompt in the wrong place.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def unknown_parameters(given: Any, *, most: int) -> list[str]:
    """The faults of the first names that are no parameter's, `most` of them: to guess what was meant takes time.

    None for what is no object, which is a fault of another kind.
    """
    if not isinstance(given, dict) or given.keys() <= _KNOWN.keys():
        return []
    return [_fault(name) for name in _shown_once(name for name in given if name not in _KNOWN)[:most]]


def _shown_once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name if _NAME.fullmatch(name) else "" for name in names))


def _fault(name: str) -> str:
    if not name:
        return "parameters: has a name that is no parameter's"
    if name in Request.model_fields:
        return f"parameters.{name}: is no parameter, it belongs beside parameters"
    snake = _HUMP.sub("_", name).lower()
    meant = get_close_matches(snake, _KNOWN, n=1)
    return f"parameters.{name}: unknown" + (f", did you mean {meant[0]}?" if meant else "")
