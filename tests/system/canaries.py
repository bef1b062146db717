"""Unique strings to plant, and every spelling that they could come out in. Imports nothing of the product."""

import base64
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Canary:
    """A planted value; `core` is the part that is searched for, so that a cut or masked value is found as well.

    The core is of hexadecimal digits: JSON and percent-encoding leave them as they are.
    """

    name: str
    value: str
    core: str

    def spellings(self) -> Iterator[str]:
        """As it is, in hexadecimal, and in base64 wherever in a longer text it may start."""
        yield self.core
        yield self.core.encode().hex()
        for shift in range(3):
            yield _inside_base64(self.core.encode(), shift)


def key(name: str) -> Canary:
    """An API key of no known form: no pattern recognises it. Its last four characters may be shown."""
    core = secrets.token_hex(8)
    return Canary(name, f"pelican-{core}-{secrets.token_hex(2)}", core)


def password(name: str) -> Canary:
    """With characters that a URL has to escape."""
    core = secrets.token_hex(8)
    return Canary(name, f"p/{core}@:%", core)


def text(name: str) -> Canary:
    """A few sentences, such as a prompt, with characters that JSON has to escape."""
    core = secrets.token_hex(8)
    return Canary(
        name, f'The "{name}"\n\tsays: {core}. ü\u2028🦔 ' + f"And more of {core}, again and again. " * 3, core
    )


def leaks(canaries: Iterable[Canary], text: str) -> list[str]:
    """The names of those that are in a text, in any spelling."""
    return sorted({canary.name for canary in canaries if any(found in text for found in canary.spellings())})


def _inside_base64(raw: bytes, shift: int) -> str:
    """What base64 makes of `raw` behind `shift` (0 to 2) other bytes, without the characters that they share."""
    encoded = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
    shared_at_the_end = (shift + len(raw)) % 3 != 0
    return encoded[(0, 2, 3)[shift] : -1 if shared_at_the_end else None]
