"""The type of settings that are API keys: what can be none is refused by its number, and never repeated. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer
from pydantic_settings import NoDecode

from gateway.secrets import ApiKey
from gateway.settings.quotes import unquoted

#: Visible ASCII, but what separates, quotes or encloses: two keys in one, or a placeholder.
_KEY: Final = re.compile(r"[!#-&*+\-./0-9:=?@A-Z^_a-z~]+")

#: Padding of base64 at the end of a key; behind a label alone there is no key.
_PADDING: Final = re.compile(r"[^=\"']{18,}(={1,2})[\"']?$")

_ADVICE: Final = "key number {number} is a placeholder: give the whole key, as its provider shows it once"

#: What no key is, whoever has given it out.
_NO_KEY: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"^$",
        r"\.\.\.|…",  # sk-or-v1-... and what a site shows of a key that it has cut
        r"<.*>|\[.*\]|\$?\{.*\}|%\w+%|^\$\w+$",  # <key>, and variables that nobody has put in
        r"\*{3}",  # masked, as in a log
    )
)

#: What stands for a key of OpenRouter or Google in documentation, examples and templates; a stand-in has keys of its
#: own, by any name. A word is what is between characters that are neither letters nor digits: a real key is random, and
#: holds one of these, with both its ends, once in a million.
_WORDS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![a-z0-9])(your[a-z]*|change[-_]?me|replace([-_]?me)?|placeholder|insert|redacted|example|x{3,})(?![a-z0-9])",
        r"(?<![a-z0-9])here$",
        r"(?<![a-z0-9])my[-_]?([a-z]+[-_])?(api[-_]?)?key",
        r"^(sk-or-v1-?|sk-or-?|sk-?|AIza)?(x+|\*+|0{8,})?$",  # nothing behind what all keys begin with
        r"^sk-or-v1-.{0,7}$",  # too little behind it
        r"^([a-z]+[-_])+keys?$",  # the name of a setting
        r"=$",  # a label without a key
        r"^(none|null|undefined|todo|tbd|api[-_]?key|key|secret|token)$",
    )
)

PLACEHOLDERS: Final = _NO_KEY + _WORDS


def placeholder(keys: Iterable[ApiKey]) -> str | None:
    """What to do about the first of these that is none of the provider's own; None when all may be."""
    for number, key in enumerate(keys, 1):
        if any(pattern.search(key.reveal()) for pattern in PLACEHOLDERS):
            return _ADVICE.format(number=number)
    return None


def _keys(text: str) -> tuple[ApiKey, ...]:
    """`key`, `label=key`, comma-separated, with or without quotes; one key of several spellings counts once."""
    parts = [unquoted(part).strip() for part in text.split(",")]
    return tuple(dict.fromkeys(_key(part, number) for number, part in enumerate(parts, 1) if part))


def _key(part: str, number: int) -> ApiKey:
    padding = _PADDING.search(part)
    end = padding.start(1) if padding else len(part)
    label, _, value = part[:end].rpartition("=")
    value = unquoted(value + part[end:]).strip()
    if any(pattern.search(value) for pattern in _NO_KEY):
        raise ValueError(_ADVICE.format(number=number))
    if not _KEY.fullmatch(value):
        raise ValueError(
            f"key number {number} has characters that no key has: remove spaces, quotes and line ends, "
            "and separate keys by commas"
        )
    return ApiKey(value, label=unquoted(label).strip() or None)


@dataclass(frozen=True)
class KeysFile:
    """A file of keys, and those that were in it when it was read."""

    path: Path
    keys: tuple[ApiKey, ...]

    @classmethod
    def read(cls, path: Path) -> "KeysFile":
        """Raises ValueError, which says what to give and repeats nothing of it."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError):
            raise ValueError("cannot be read: give a text file in UTF-8, readable for this user") from None
        texts = [part for line in lines if not line.lstrip().startswith("#") for part in line.split(",")]
        found = [text for text in texts if text.strip()]
        keys = _keys(",".join(found))
        if not keys:
            raise ValueError("there is no key in it: give one on each line")
        if len(keys) < len(found):
            raise ValueError("a key is in it twice: give each once")
        return cls(path, keys)

    def __str__(self) -> str:
        return str(self.path)


FileOfKeys = Annotated[
    KeysFile,
    NoDecode,
    BeforeValidator(lambda given: KeysFile.read(Path(given)) if isinstance(given, str | Path) else given),
    PlainSerializer(str, return_type=str),
]

Keys = Annotated[
    tuple[Annotated[ApiKey, PlainSerializer(str, return_type=str)], ...],
    NoDecode,
    BeforeValidator(lambda given: _keys(given) if isinstance(given, str) else given),
]
