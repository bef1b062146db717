"""From the bytes that a producer has published to JSON in UTF-8, within a limit of size.

what it is                     is known by                                           then it is
gzip                           its first two bytes, whatever the properties say      decompressed
deflate                        `content_encoding`, if the body is no JSON as it is   decompressed
UTF-8 with a BOM, UTF-16, -32  its first bytes, as JSON's own rules have it          decoded
Latin-1 and other charsets     `content_encoding`, or `charset` in `content_type`    decoded
anything else                  a name that says nothing to us                        read as it is, or the name is said

Many clients put a charset into `content_encoding` (kombu, Net::AMQP::RabbitMQ), or a compression that they then do not
use, so a name is never a reason to refuse what can be read.
"""

import codecs
import json
import re
import zlib
from functools import lru_cache

#: zlib's own numbers for what it shall expect: a gzip head, a zlib head, none.
_GZIP, _ZLIB, _RAW = 31, 15, -15

_DEFLATE = frozenset({"deflate", "x-deflate", "zlib"})

#: Names that ask for nothing: UTF-8 is what JSON is, and gzip is known by its head.
_NOTHING = frozenset({"", "identity", "none", "binary", "8bit", "7bit", "utf-8", "utf8", "gzip", "x-gzip"})

#: Charsets that producers use. Python's list is longer, and has codecs that make something else of bytes than text.
_CHARSETS = re.compile(
    r"(us-)?ascii|utf-?(16|32)(-?[bl]e)?|latin-?1|iso-?8859-?\d{1,2}|(windows-?|cp)125\d|koi8-[ru]"
    r"|shift[-_]jis|euc-(jp|kr)|gbk|gb2312|gb18030|big5"
)

_SEPARATORS = re.compile(r"[\s,;:]+")
_CHARSET_PARAMETER = re.compile(r"charset\s*=\s*\"?([^\s\";]+)", re.IGNORECASE)


class Unreadable(ValueError):
    """The text says why, and nothing of the body."""


def as_utf8(body: bytes, *, content_type: str | None, content_encoding: str | None, limit: int) -> bytes:
    """The body as JSON is written, at most `limit` bytes of it; a NUL at its end is left out. Raises Unreadable."""
    _check_size(body, limit)
    names = _names(content_type, content_encoding)
    if body.startswith(b"\x1f\x8b"):
        body = _decompressed(body, "gzip", (_GZIP,), limit)
    elif not _looks_like_json(body) and (name := next((n for n in names if n in _DEFLATE), None)):
        body = _decompressed(body, name, (_ZLIB, _RAW), limit)
    text = _transcoded(body, names).rstrip(b"\x00")
    _check_size(text, limit)
    return text


def strange(content_type: str | None, content_encoding: str | None) -> str | None:
    """The name of an encoding that we do not read, None where there is none: why a body may be unreadable."""
    known = (*_NOTHING, *_DEFLATE)
    names = _names(content_type, content_encoding)
    return next((name for name in names if name not in known and not _CHARSETS.fullmatch(name)), None)


@lru_cache(maxsize=64)
def _names(content_type: str | None, content_encoding: str | None) -> tuple[str, ...]:
    """What the properties say of the encoding, in lower case; nearly every request says the same."""
    charset = _CHARSET_PARAMETER.search(content_type or "")
    return (
        *_SEPARATORS.split((content_encoding or "").strip().lower()),
        *((charset[1].lower(),) if charset is not None else ()),
    )


def _looks_like_json(body: bytes) -> bool:
    return body.lstrip()[:1] in (b"{", b"[", b'"')


def _decompressed(body: bytes, name: str, formats: tuple[int, ...], limit: int) -> bytes:
    for format_ in formats:
        reader = zlib.decompressobj(format_)
        try:
            text = reader.decompress(body, limit + 1)
        except zlib.error:
            continue
        _check_size(text, limit)  # before its end is looked for: a bomb has none in sight
        if reader.eof:
            return text
    raise Unreadable(f"the message cannot be decompressed ({name})")


def _transcoded(body: bytes, names: tuple[str, ...]) -> bytes:
    if body[:1] == b"{" and body[1:2] != b"\x00" and _NOTHING.issuperset(names):
        return body  # nearly every one
    found = json.detect_encoding(body)
    charset = found if found != "utf-8" else next((name for name in names if _CHARSETS.fullmatch(name)), "utf-8")
    if charset == "utf-8":
        return body
    try:
        return codecs.decode(body, charset).removeprefix("\ufeff").encode()
    except (LookupError, UnicodeError):
        raise Unreadable(f"the message is not text in {charset}") from None


def _check_size(body: bytes, limit: int) -> None:
    if len(body) > limit:
        raise Unreadable(f"the message is larger than {limit} bytes")
