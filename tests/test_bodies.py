"""JSON objects out of a body, in whatever frame."""

import pytest

from gateway.providers import bodies


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (b'{"a": 1}', [{"a": 1}]),
        (b' \n{"a": 1}\n ', [{"a": 1}]),
        (b'[{"a": 1},\n{"a": 2}]', [{"a": 1}, {"a": 2}]),
        (b'{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        (b'data: {"a": 1}\r\n\r\ndata: {"a": 2}\r\n\r\ndata: [DONE]\r\n\r\n', [{"a": 1}, {"a": 2}]),
        (b'event: message\nid: 7\nretry: 5\ndata:{"a": 1}\n\n', [{"a": 1}]),
        (b': OPENROUTER PROCESSING\n\n: {"not": "this"}\n\ndata: {"a": 1}\n\n', [{"a": 1}]),
        (b': OPENROUTER PROCESSING\n\n{"a": 1}', [{"a": 1}]),
        (b'{"a": "two\nlines", "b": NaN}', [{"a": "two\nlines", "b": None}]),
        (b'\xef\xbb\xbf{"a": 1}', [{"a": 1}]),
        ('{"a": "ü"}'.encode("utf-16"), [{"a": "ü"}]),
        ('{"a": "ü"}'.encode("latin-1"), [{"a": "\ufffd"}]),
        (b"null", []),
        (b"[]", []),
        (b"[1, 2]", []),
        (b"", []),
        (b"  \n", []),
    ],
)
def test_objects_are_found_in_every_frame(body, objects):
    """A document, a list, lines, events; what is no object is passed over."""
    content = bodies.read(body)
    assert (content.objects, content.is_whole) == (objects, True)


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("application/json; charset=ISO-8859-1", "Grüße"),
        ('application/json; charset="windows-1252"', "Grüße"),
        ("application/json; charset=utf-8", "Gr\ufffd\ufffde"),
        ("application/json; charset=iso-8859-99", "Gr\ufffd\ufffde"),
        ("application/json", "Gr\ufffd\ufffde"),
    ],
)
def test_a_stated_character_set_is_taken_where_it_is_no_utf_8(content_type, text):
    """JSON is UTF-8, whatever the header says, unless it cannot be."""
    assert bodies.read('{"a": "Grüße"}'.encode("latin-1"), content_type).objects == [{"a": text}]
    assert bodies.read('{"a": "Grüße"}'.encode(), content_type).objects == [{"a": "Grüße"}]


def test_json_in_json_is_unpacked():
    """A gateway has packed the document into a string."""
    assert bodies.read(b'"{\\"a\\": 1}"').objects == [{"a": 1}]


@pytest.mark.parametrize(
    ("body", "objects"),
    [
        (b'data: {"a": 1}\n\ndata: {"a"', [{"a": 1}]),
        (b'{"a": 1}<!-- added by a proxy -->', [{"a": 1}]),
        (b"<html></html>", []),
        (b'{"a": ', []),
        (b"{" * 200_000, []),
        (b"\x1b\x0b\x00\xf8", []),
    ],
)
def test_what_comes_before_a_break_is_kept(body, objects):
    """And the break is told."""
    content = bodies.read(body)
    assert (content.objects, content.is_whole) == (objects, False)


@pytest.mark.parametrize(
    ("body", "has_ended"),
    [
        (b'{"a": 1}', True),
        (b'data: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n', True),
        (b'data: {"a": 1}\n\ndata: {"a": 2}\n\n', False),
        (b'data: {"a": 1}\n\ndata: {"a": "[DONE]"}\n\n', False),
        (b'data: {"a": 1}\n\ndata: {"a"', False),
    ],
)
def test_a_stream_says_where_it_ends(body, has_ended):
    """A document does by itself."""
    assert bodies.read(body).has_ended is has_ended
