"""The type of settings that are API keys: what can be none is refused by its number, and never repeated. Pure."""

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer
from pydantic_settings import NoDecode

from gateway.secrets import ApiKey
from gateway.settings.quotes import unquoted

#: Visible ASCII, but what separates, quotes or encloses: two keys in one, or a placeholder.
_KEY: Final = re.compile(r"[!#-&*+\-./0-9:=?@A-Z^_a-z~]+")

#: What stands for a key in documentation, examples and templates. A word is what is between characters that are
#: neither letters nor digits: a real key is random, and holds one of these, with both its ends, once in a million.
PLACEHOLDERS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\.\.\.|…",  # sk-or-v1-... and what a site shows of a key that it has cut
        r"<.*>|\[.*\]|\$?\{.*\}|%\w+%",  # <key>, and variables that nobody has put in
        r"\*{3}",  # masked, as in a log
        r"(?<![a-z0-9])(your[a-z]*|change[-_]?me|replace([-_]?me)?|placeholder|insert|x{3,})(?![a-z0-9])",
        r"(?<![a-z0-9])my[-_]?([a-z]+[-_])?(api[-_]?)?key",
        r"^(sk-or-v1-?|sk-or-?|sk-?|AIza)?(x+|\*+|0{8,})?$",  # nothing behind what all keys begin with
        r"^(none|null|undefined|todo|tbd|api[-_]?key|key|secret|token)$",
    )
)


def _keys(text: str) -> tuple[ApiKey, ...]:
    """`key`, `label=key`, comma-separated, with or without quotes; one key of several spellings counts once."""
    parts = [unquoted(part).strip() for part in text.split(",")]
    return tuple(dict.fromkeys(_key(part, number) for number, part in enumerate(parts, 1) if part))


def _key(part: str, number: int) -> ApiKey:
    label, _, value = part.rpartition("=")
    value = unquoted(value).strip()
    if any(pattern.search(value) for pattern in PLACEHOLDERS):
        raise ValueError(f"key number {number} is a placeholder: give the whole key, as its provider shows it once")
    if not _KEY.fullmatch(value):
        raise ValueError(
            f"key number {number} has characters that no key has: remove spaces, quotes and line ends, "
            "and separate keys by commas"
        )
    return ApiKey(value, label=unquoted(label).strip() or None)


Keys = Annotated[
    tuple[Annotated[ApiKey, PlainSerializer(str, return_type=str)], ...],
    NoDecode,
    BeforeValidator(lambda given: _keys(given) if isinstance(given, str) else given),
]
