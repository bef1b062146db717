"""The stand-in provider's streams: in both providers' forms, over real HTTP, and broken where a script says so."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPResponse, IncompleteRead
from typing import Any

import pytest

from fake_openrouter.client import FakeClient
from tests.test_fake_openrouter import CHAT, KEYS, connect, ended, fake, process

pytestmark = pytest.mark.xdist_group("fake_openrouter")

__all__ = ["fake", "process"]

GEMINI = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"


Asked = Callable[..., HTTPResponse]


@pytest.fixture
def begin(fake: FakeClient) -> Iterator[Asked]:
    """Asks for a stream, and comes back with the head of the answer; the connections end with the test."""
    with ExitStack() as connections:

        def ask(path: str = CHAT) -> HTTPResponse:
            said = "Name three rivers."
            body = {
                "model": "m/m",
                "messages": [{"role": "user", "content": said}],
                "stream": True,
                "contents": [{"role": "user", "parts": [{"text": said}]}],
            }
            connection = connections.enter_context(closing(connect(fake)))
            keys = {"Authorization": f"Bearer {KEYS[0]}", "x-goog-api-key": KEYS[0]}
            connection.request("POST", path, json.dumps(body), keys)
            return connections.enter_context(connection.getresponse())

        ask.close = connections.close  # type: ignore[attr-defined]
        yield ask


def events(response: HTTPResponse) -> Iterator[Any]:
    for line in iter(response.readline, b""):
        if line.startswith(b"data: "):
            yield "[DONE]" if b"[DONE]" in line else json.loads(line[6:])


def said(event: dict[str, Any]) -> str:
    return str(event["choices"][0]["delta"]["content"])


def test_openrouter_streams_chunks_and_the_usage_in_the_last_one(fake: FakeClient, begin: Asked):
    """A comment first, [DONE] last; the text is that of the same answer in one."""
    response = begin()
    assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
    assert response.readline() == b": OPENROUTER PROCESSING\n"
    *chunks, done = events(response)
    assert done == "[DONE]"
    assert "".join(map(said, chunks)) == "You asked: Name three rivers."
    assert len(chunks) == 7
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"] * 2
    assert ["usage" in chunk for chunk in chunks] == [False] * 6 + [True]
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {
        (response.headers["X-Generation-Id"], "chat.completion.chunk")
    }
    assert not ended(fake)["aborted"]


def test_gemini_streams_answers_and_its_reason_in_the_last_one(fake: FakeClient, begin: Asked):
    """No mark at the end. Other frames than events it refuses."""
    found = list(events(begin(GEMINI)))
    candidates = [event["candidates"][0] for event in found]
    assert "".join(one["content"]["parts"][0]["text"] for one in candidates) == "You asked: Name three rivers."
    assert [one.get("finishReason") for one in candidates] == [None] * 4 + ["STOP"]
    assert all(event["usageMetadata"]["totalTokenCount"] for event in found)
    assert begin(GEMINI.partition("?")[0]).status == 400


def test_a_stream_is_held_at_a_gate(fake: FakeClient, begin: Asked):
    """What comes before it has arrived by then."""
    fake.script([{"stream": {"after": 2, "gate": "held"}}])
    response = begin()
    found = events(response)
    assert [said(next(found)), said(next(found))] == ["You ", "asked: "]
    assert fake.calls()[0]["ended"] is None
    fake.open_gate("held")
    assert len(list(found)) == 6


def test_a_stream_may_end_in_the_middle(fake: FakeClient, begin: Asked):
    """In order, and without the rest."""
    fake.script([{"stream": {"then": "end"}}])
    assert [said(one) for one in events(begin())] == ["You "]


def test_a_stream_may_lose_its_connection(fake: FakeClient, begin: Asked):
    """Its frame is broken, which HTTP tells."""
    fake.script([{"stream": {"then": "lose"}}])
    with pytest.raises(IncompleteRead):
        begin().read()
    assert ended(fake)["status"] == 200


@pytest.mark.parametrize("script", [{"error_in_200": "choice"}, {"stream": {"then": "error"}}])
def test_a_stream_may_tell_an_error(fake: FakeClient, begin: Asked, script: dict[str, Any]):
    """As a chunk behind half of the text, with a reason to end."""
    fake.script([script])
    *texts, error = events(begin())
    assert all(map(said, texts))
    assert (error["error"]["code"], error["choices"][0]["finish_reason"]) == (502, "error")


def test_a_stream_of_gemini_may_tell_an_error(fake: FakeClient, begin: Asked):
    """An event of its own."""
    fake.script([{"stream": {"then": "error"}}])
    text, error = events(begin(GEMINI))
    assert text["candidates"]
    assert error["error"]["status"] == "UNAVAILABLE"


def test_an_error_before_a_stream_is_a_document(fake: FakeClient, begin: Asked):
    """With its status; so is what the windows refuse."""
    fake.script([{"status": 429}])
    response = begin()
    assert (response.status, response.headers["Content-Type"]) == (429, "application/json")


def test_comments_come_while_a_stream_waits(fake: FakeClient, begin: Asked):
    """In the place of white space."""
    fake.script([{"whitespace": True, "gate": "held"}])
    response = begin()
    assert response.readline() == b": OPENROUTER PROCESSING\n"
    fake.open_gate("held")
    assert list(events(response))[-1] == "[DONE]"


def test_a_caller_that_leaves_a_stream_is_seen(fake: FakeClient, begin: Asked):
    """Its call is aborted."""
    fake.script([{"stream": {"gate": "held"}}])
    response = begin()
    next(events(response))
    begin.close()  # type: ignore[attr-defined]
    assert ended(fake)["aborted"]
