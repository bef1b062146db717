"""Content encodings that nobody asked for: undone, or named."""

import gzip
import zlib
from functools import partial

import pytest

from gateway.providers.encodings import TooLarge, decoded

PLAIN = b'{"choices": [{"message": {"content": "Gr\xc3\xbc\xc3\x9fe"}}]}'
LIMIT = 10_000


#: The same bytes at any time: they are in the names of tests.
zipped = partial(gzip.compress, mtime=0)


def bare_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("stated", "body"),
    [
        ("", PLAIN),
        ("identity", PLAIN),
        ("gzip", zipped(PLAIN)),
        ("x-gzip", zipped(PLAIN)),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", bare_deflate(PLAIN)),
        # What the header says is not what the bytes are.
        ("", zipped(PLAIN)),
        ("", zlib.compress(PLAIN)),
        ("gzip", PLAIN),
        ("br", PLAIN),
        ("deflate", PLAIN),
        ("deflate", zipped(PLAIN)),
        ("br", zipped(PLAIN)),
        ("gzip", zlib.compress(PLAIN)),
        # Twice, and in two members.
        ("gzip, gzip", zipped(zipped(PLAIN))),
        ("gzip", zipped(zipped(PLAIN))),
        ("gzip", zipped(PLAIN[:10]) + zipped(PLAIN[10:])),
    ],
)
def test_gzip_and_deflate_are_undone_whatever_the_header_says(stated, body):
    """The bytes tell."""
    assert decoded(body, stated, limit=LIMIT) == (PLAIN, "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_text_in_another_character_set_is_no_encoding(encoding):
    """It has bytes that are no character by themselves."""
    body = PLAIN.decode().encode(encoding)
    assert decoded(body, "", limit=LIMIT) == (body, "")


@pytest.mark.parametrize(
    ("stated", "body", "left"),
    [
        ("br", b"\x1b\x0b\x00\xf8\x8f\xd4\xe1\x8e\x07", "br"),
        ("zstd", b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
        ("GZIP", zipped(PLAIN)[:-9], "gzip"),
        ("", zipped(PLAIN)[:-9], "gzip"),
        ("gzip, br", zipped(b"\x1b\x0b\x00\xf8"), "gzip, br"),
        ("br", b"", ""),
    ],
)
def test_what_cannot_be_undone_is_named(stated, body, left):
    """Brotli, Zstandard, and half of a gzip."""
    assert decoded(body, stated, limit=LIMIT)[1] == left


@pytest.mark.parametrize("compress", [zipped, zlib.compress, lambda body: zipped(zipped(body))])
def test_a_small_body_does_not_grow_beyond_the_limit(compress):
    """A bomb is dropped while it unfolds."""
    with pytest.raises(TooLarge):
        decoded(compress(bytes(50_000_000)), "gzip", limit=LIMIT)


def test_a_body_at_the_limit_is_read():
    assert decoded(zipped(b"x" * LIMIT), "gzip", limit=LIMIT) == (b"x" * LIMIT, "")
