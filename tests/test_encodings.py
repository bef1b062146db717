"""What producers do to a body before they send it, and say of it."""

import codecs
import gzip
import json
import zlib

import pytest

from bridge.encodings import Unreadable, as_utf8, strange

TEXT = json.dumps({"prompt": "Grüße, Wörter"}, ensure_ascii=False)
LIMIT = 10_000


def read(body: bytes, *, content_type: str | None = None, content_encoding: str | None = None) -> str:
    found = as_utf8(body, content_type=content_type, content_encoding=content_encoding, limit=LIMIT)
    return found.decode()


def packed(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)


def raw_deflate(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(text) + packer.flush()


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (TEXT.encode(), {}),
        (TEXT.encode(), {"content_encoding": "utf-8"}),
        (TEXT.encode(), {"content_encoding": "UTF-8", "content_type": "application/json; charset=utf-8"}),
        (TEXT.encode(), {"content_encoding": "gzip"}),
        (TEXT.encode(), {"content_encoding": "x-lz4"}),
        (TEXT.encode(), {"content_encoding": "deflate"}),
        (TEXT.encode() + b"\x00", {}),
        (codecs.BOM_UTF8 + TEXT.encode(), {"content_encoding": "utf-8"}),
        (TEXT.encode("utf-16"), {"content_encoding": "utf-8"}),
        (TEXT.encode("utf-16-le"), {}),
        (TEXT.encode("utf-32"), {}),
        (TEXT.encode("latin-1"), {"content_encoding": "ISO-8859-1"}),
        (TEXT.encode("latin-1"), {"content_encoding": "latin1"}),
        (TEXT.encode("cp1252"), {"content_type": 'application/json; charset="windows-1252"'}),
        (TEXT.encode("latin-1") + b"\x00", {"content_encoding": "latin-1"}),
        (packed(TEXT.encode()), {"content_encoding": "gzip"}),
        (packed(TEXT.encode()), {"content_encoding": "x-gzip", "content_type": "application/x-gzip"}),
        (packed(TEXT.encode()), {"content_encoding": "gzip:UTF-8"}),
        (packed(TEXT.encode()), {}),
        (packed(TEXT.encode("latin-1")), {"content_encoding": "gzip, iso-8859-1"}),
        (packed(TEXT.encode("utf-16")), {"content_encoding": "gzip"}),
        (zlib.compress(TEXT.encode()), {"content_encoding": "deflate"}),
        (raw_deflate(TEXT.encode()), {"content_encoding": "deflate"}),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_the_text_is_what_the_producer_has_written(body: bytes, facts: dict[str, str]):
    """K7. From reports: kombu#707 (application/x-gzip), telegraf#6998 (gzip, and is not), node-amqp#326 (lz4)."""
    assert json.loads(read(body, **facts)) == json.loads(TEXT)


@pytest.mark.parametrize(
    ("body", "facts", "says"),
    [
        (packed(TEXT.encode())[:-12], {}, "cannot be decompressed (gzip)"),
        (b"\x1f\x8b garbage", {}, "cannot be decompressed (gzip)"),
        (b"garbage", {"content_encoding": "deflate"}, "cannot be decompressed (deflate)"),
        (b"\xff\xfe{\x00\x00", {}, "not text in utf-16"),
        (b"\xff\xff\xff", {"content_encoding": "ascii"}, "not text in ascii"),
        (b"x" * (LIMIT + 1), {}, "larger than 10000 bytes"),
        (packed(b"x" * (LIMIT + 1)), {}, "larger than 10000 bytes"),
        (zlib.compress(b"x" * (LIMIT + 1)), {"content_encoding": "deflate"}, "larger than 10000 bytes"),
        (b'{"a": "' + b"\xe9" * 6000 + b'"}', {"content_encoding": "latin-1"}, "larger than 10000 bytes"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_cannot_be_read_is_said_in_words(body: bytes, facts: dict[str, str], says: str):
    """And nothing of the body is in them."""
    with pytest.raises(Unreadable) as caught:
        read(body, **facts)
    assert says in str(caught.value)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch):
    """F2: a gigabyte in a megabyte: no more of it is made than the limit and a byte."""
    bomb = zlib.compressobj(wbits=31)
    packed = b"".join(bomb.compress(b"\x00" * 1_000_000) for _ in range(100)) + bomb.flush()
    made: list[int] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.reader = real(wbits)

        def decompress(self, body: bytes, limit: int) -> bytes:
            text = self.reader.decompress(body, limit)
            made.append(len(text))
            return text

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(Unreadable, match="larger"):
        as_utf8(packed, content_type=None, content_encoding="gzip", limit=1_000_000)
    assert made == [1_000_001]


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ((None, None), None),
        (("application/json", "gzip"), None),
        (("application/json; charset=ISO-8859-15", None), None),
        ((None, "br"), "br"),
        ((None, "gzip, zstd"), "zstd"),
        (("application/json; charset=ebcdic", None), "ebcdic"),
        ((None, "rot13"), "rot13"),
    ],
)
def test_an_encoding_that_is_not_read_has_a_name(facts: tuple[str | None, str | None], name: str | None):
    """Python has codecs that are no charsets; what is not on our list is never looked up."""
    assert strange(*facts) == name
