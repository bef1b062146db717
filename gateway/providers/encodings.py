"""The content encoding of an answer, undone: what the header says, or what the bytes are.

We ask for none (`Accept-Encoding: identity`), so whoever compresses all the same is a proxy or a provider that does not
look, and its header is as likely wrong as its wish to compress.
"""

import zlib
from collections.abc import Callable
from typing import Final

#: gzip in gzip happens: a provider compresses, and a proxy once more.
_MOST_LAYERS: Final = 3
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32
_BARE_DEFLATE: Final = -zlib.MAX_WBITS
_GZIP_MAGIC: Final = b"\x1f\x8b"
#: Every first byte of zlib's that is in use means this, and no text of a provider begins with it.
_ZLIB_FIRST: Final = 0x78


class TooLarge(Exception):
    """More bytes than the limit."""


def decoded(body: bytes, stated: str, *, limit: int) -> tuple[bytes, str]:
    """`body` without gzip and deflate, and the name of the encoding that is left, empty where none is.

    `stated` is the header `Content-Encoding`. Raises TooLarge for more than `limit` bytes; never makes more of them.
    """
    names = [name for name in (part.strip().lower() for part in stated.split(",")) if name not in ("", "identity")]
    for _ in range(_MOST_LAYERS):
        plain = _undone(body, names, limit)
        if plain is None:
            break
        body = plain
    if len(body) > limit:
        raise TooLarge
    return body, "" if _is_text(body) else (", ".join(names) or ("gzip" if body.startswith(_GZIP_MAGIC) else ""))


class Unpacking:
    """Takes gzip or zlib off a body as it comes; gives nothing more of what is broken, or larger than `limit` bytes.

    One layer, as the first bytes tell: for who looks at a body before it is whole.
    """

    def __init__(self, *, limit: int) -> None:
        self._left = limit
        self._begin = b""
        self._undo: Callable[[bytes, int], bytes] | None = None

    def fed(self, part: bytes) -> bytes:
        """What another part of the body adds."""
        if self._undo is None:
            self._begin += part
            if len(self._begin) < len(_GZIP_MAGIC):
                return b""
            self._undo, part = _undoing(self._begin), self._begin
        try:
            plain = self._undo(part, self._left) if self._left else b""
        except zlib.error:
            plain, self._left = b"", 0
        self._left -= len(plain)
        return plain


def _undoing(begin: bytes) -> Callable[[bytes, int], bytes]:
    """What makes a part of the body plain, and gives so many bytes at most."""
    if begin.startswith(_GZIP_MAGIC) or _is_zlib(begin):
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress
    return lambda part, most: part[:most]


def _undone(body: bytes, names: list[str], limit: int) -> bytes | None:
    """One layer less; None where there is none that we know, or it is broken."""
    if body.startswith(_GZIP_MAGIC) or _is_zlib(body):
        return _inflated(body, _GZIP_OR_ZLIB, limit)
    if "deflate" in names and not _is_text(body):
        return _inflated(body, _BARE_DEFLATE, limit)
    return None


def _is_zlib(body: bytes) -> bool:
    return len(body) > 1 and body[0] == _ZLIB_FIRST and int.from_bytes(body[:2]) % 31 == 0


def _inflated(body: bytes, window_bits: int, limit: int) -> bytes | None:
    plain = b""
    while body:  # gzip may have several members
        inflate = zlib.decompressobj(window_bits)
        try:
            plain += inflate.decompress(body, limit + 1 - len(plain))
        except zlib.error:
            return None
        if len(plain) > limit:
            raise TooLarge
        if not inflate.eof:
            return None
        body = inflate.unused_data
    return plain


def _is_text(body: bytes) -> bool:
    """Whether it can be text: no control character in its beginning but white space, or UTF-16's zeros."""
    start = body[:64]
    return not start or start.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_printable(start.replace(b"\0", b""))


def _is_printable(start: bytes) -> bool:
    text = start.decode("utf-8", "replace")
    broken = text[:-3].count("\ufffd")  # a character that is cut at the end is no sign
    if broken * 8 > len(start):
        return False
    return text.isprintable() or all(char.isprintable() or char.isspace() or char == "\ufeff" for char in text)
