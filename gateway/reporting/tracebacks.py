"""Exceptions as text: what and where, without what others may have written into them.

The text of a foreign exception can hold anything that was being worked on, a prompt, an answer or a key:
`ValueError: invalid literal for int() with base 10: 'Tell me about …'`.
"""

import sqlite3
import traceback
from collections.abc import Iterator

from pika.exceptions import AMQPError

from gateway.errors import GatewayError

#: Exceptions of Python whose text names types, attributes, files and hosts, never values.
_ABOUT_CODE = (AttributeError, ImportError, MemoryError, NameError, OSError, RecursionError, TypeError)
#: Where those have to come from; a library's subclass writes what it likes.
_PYTHONS_OWN = frozenset({"builtins", "socket", "ssl"})
#: Errors of RabbitMQ, SQLite and ourselves: texts without values. Dramatiq's, by name: the gateway does not import it.
_ABOUT_SERVICES = (AMQPError, GatewayError, sqlite3.Error)
_DRAMATIQS = "dramatiq.errors"

#: Of a long stack the innermost frames tell, and of a long chain the last links.
_MOST_FRAMES = 20
_MOST_LINKS = 8


def text_of(error: BaseException) -> str:
    """The text of `error` if it is known to hold no values, else its type."""
    if _tells(error):
        return str(error) or _type_of(error)
    return f"{_type_of(error)} (text withheld)"


def trace_of(error: BaseException) -> str:
    """Type, text and stack of `error`, then of what caused it; several lines, a bounded number of them."""
    return "caused by ".join(_link(link) for link in _chain(error))


def _tells(error: BaseException) -> bool:
    kind = type(error)
    return (
        isinstance(error, _ABOUT_SERVICES)
        or (kind.__module__ in _PYTHONS_OWN and isinstance(error, _ABOUT_CODE))
        or kind.__module__ == _DRAMATIQS
    )


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _link(error: BaseException) -> str:
    said = f"{_type_of(error)}: {error}" if _tells(error) else text_of(error)
    return f"{said}\n{''.join(traceback.format_tb(error.__traceback__, limit=-_MOST_FRAMES))}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and its causes, outermost first; ends, even if it is a circle."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < _MOST_LINKS:
        yield link
        seen.add(id(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
