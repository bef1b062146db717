"""Partial answers from outside: told while the provider holds the rest back, and one envelope whatever happens."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pika
import pytest

from dev.rabbitmq import Server
from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.system.conftest import KEYS, new_stack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

Running = tuple[Stack, FakeClient]


@pytest.fixture(scope="module")
def gemini_stack(rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A worker that has keys of Gemini only."""
    with ExitStack() as cleanup:
        url = cleanup.enter_context(rabbitmq_server.fresh_vhost())
        stack, fake = new_stack(cleanup, tmp_path_factory.mktemp("gemini"), url, UPSTREAM_RETRY_DELAYS="0.1,0.2")
        stack.start_worker(OPENROUTER_API_KEYS="", GEMINI_API_KEYS=KEYS[0], GEMINI_BASE_URL=fake.base_url)
        yield stack, fake


@pytest.fixture(params=["openrouter", "gemini"])
def running(request: pytest.FixtureRequest) -> Running:
    """A worker for each provider, shared by the tests of this file."""
    found: Running = request.getfixturevalue("running_stack" if request.param == "openrouter" else "gemini_stack")
    found[1].reset()
    return found


def ask(stack: Stack, name: str, **fields: Any) -> None:
    stack.publish({"request_id": name, "prompt": f"Question of {name}", "stream": True, **fields})


def read(stack: Stack, queue: str = "gemini.responses") -> tuple[list[tuple[int, int, str]], dict[str, Any]]:
    """Everything up to the next envelope: pieces as attempt, number and text, and the envelope."""
    pieces: list[tuple[int, int, str]] = []
    while True:
        (answer,) = stack.answers(1, queue=queue)
        if answer.properties.type != "gemini.delta":
            return pieces, answer.envelope
        pieces.append((answer["attempt"], answer["seq"], answer["text"]))


def test_the_first_piece_comes_while_the_provider_holds_the_rest_back(running: Running):
    """Whatever it takes until then: the gate is opened when it is in the queue. The envelope is that of any request."""
    stack, fake = running
    fake.script([{"stream": {"gate": "held"}}])
    ask(stack, "held", metadata={"n": 1})
    (piece,) = stack.answers(1)
    assert piece.envelope == {"request_id": "held", "attempt": 1, "seq": 0, "text": "You "}
    assert (piece.properties.type, piece.properties.delivery_mode) == ("gemini.delta", 1)
    assert (piece.properties.correlation_id, piece.properties.app_id) == ("held", "gemini-openrouter-worker")
    assert fake.calls()[0]["ended"] is None
    fake.open_gate("held")
    pieces, envelope = read(stack)
    assert [seq for _, seq, _ in pieces] == list(range(1, len(pieces) + 1))
    assert "You " + "".join(text for *_, text in pieces) == envelope["content"] == "You asked: Question of held"
    assert (envelope["status"], envelope["finish_reason"], envelope["metadata"]) == ("success", "stop", {"n": 1})
    assert envelope["usage"]["total_tokens"] > 0
    assert stack.depth("gemini.responses") == 0


@pytest.mark.parametrize("then", ["end", "lose", "error"])
def test_a_provider_that_stops_in_the_middle_is_asked_again(running: Running, then: str):
    """The next attempt says that it is one; one envelope, of the attempt that has come to its end."""
    stack, fake = running
    fake.script([{"stream": {"after": 2, "then": then}, "times": 1}])
    ask(stack, f"broken-{then}")
    pieces, envelope = read(stack)
    assert (envelope["status"], envelope["attempts"]) == ("success", 2)
    texts = {number: "".join(text for attempt, _, text in pieces if attempt == number) for number in (1, 2)}
    assert texts == {1: "You asked: ", 2: envelope["content"]}
    assert next(seq for attempt, seq, _ in pieces if attempt == 2) == 0
    assert stack.depth("gemini.responses") == 0


def test_a_provider_that_always_stops_in_the_middle_gives_one_error(running: Running):
    """After the whole short schedule."""
    stack, fake = running
    fake.script([{"stream": {"then": "end"}}])
    ask(stack, "always")
    pieces, envelope = read(stack)
    assert (envelope["error_code"], envelope["attempts"]) == ("upstream", 3)
    assert pieces == [(1, 0, "You "), (2, 0, "You "), (3, 0, "You ")]
    assert stack.depth("gemini.responses") == 0


@pytest.mark.parametrize("kind", ["exclusive queue", "direct reply-to"])
def test_a_client_that_waits_hears_the_pieces(running_stack: Running, kind: str):
    """With its own correlation_id, like the reply."""
    stack, fake = running_stack
    fake.reset()
    heard: list[tuple[str, str, str]] = []

    def hear(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        heard.append((properties.correlation_id, properties.type, json.loads(body).get("text", "")))

    with stack.channel() as channel:
        direct = "amq.rabbitmq.reply-to"
        address = direct if kind == "direct reply-to" else channel.queue_declare("", exclusive=True).method.queue
        channel.basic_consume(address, hear, auto_ack=True)
        properties = pika.BasicProperties(reply_to=address, correlation_id="c-1")
        channel.basic_publish("", "gemini.requests", json.dumps({"prompt": "Hello", "stream": True}), properties)

        def has_ended() -> bool:
            channel.connection.process_data_events(0.1)
            return bool(heard) and heard[-1][1] == "gemini.success"

        wait_until(has_ended, what="the envelope")
    assert {correlation for correlation, _, _ in heard} == {"c-1"}
    assert "".join(text for *_, text in heard) == "You asked: Hello"
    assert [kind for _, kind, _ in heard].count("gemini.success") == 1


def test_a_full_callback_queue_costs_the_pieces_and_not_the_answer(running_stack: Running):
    """The call goes on; its envelope is held, and delivered once when there is room."""
    stack, fake = running_stack
    fake.reset()
    fake.script([{"stream": {"gate": "held"}}])
    with stack.channel() as channel:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full", durable=True, arguments=arguments)
        channel.confirm_delivery()
        channel.basic_publish("", "full", b"in the way")
    ask(stack, "full", callback_queue="full")
    fake.wait_for_calls(1)
    fake.open_gate("held")
    stack.processes[0].wait_for_output("[full] The callback queue refused the reply")
    assert stack.depth("full") == 1
    with stack.channel() as channel:
        channel.queue_purge("full")
        found: list[Any] = []
        wait_until(lambda: found.append(channel.basic_get("full", auto_ack=True)) or found[-1][0], what="the envelope")
        _method, properties, body = found[-1]
    assert (properties.type, json.loads(body)["content"]) == ("gemini.success", "You asked: Question of full")
    assert stack.depth("full") == 0
    assert len(fake.calls()) == 1


def test_pieces_make_no_callback_queue(running_stack: Running):
    """The envelope waits for the queue, and the pieces do not."""
    stack, fake = running_stack
    fake.reset()
    ask(stack, "missing", callback_queue="made.later")
    stack.processes[0].wait_for_output("[missing] The callback queue refused the reply")
    pieces, envelope = read(stack, "made.later")
    assert (pieces, envelope["status"]) == ([], "success")


def test_a_cancel_ends_a_stream(running: Running):
    """While the provider is silent; its connection is closed, and the request has one envelope."""
    stack, fake = running
    fake.script([{"stream": {"gate": "held"}}])
    ask(stack, "unwanted")
    (piece,) = stack.answers(1)
    assert piece["text"] == "You "
    stack.publish({"cancel": "unwanted"})
    pieces, envelope = read(stack)
    assert (pieces, envelope["error_code"], envelope["attempts"]) == ([], "cancelled", 1)
    wait_until(lambda: fake.calls()[0]["aborted"], what="the end of the call")
    assert (len(fake.calls()), stack.depth("gemini.responses")) == (1, 0)


def test_the_deadline_of_the_request_ends_a_stream(running_stack: Running):
    """Pieces do not put it off."""
    stack, fake = running_stack
    fake.reset()
    fake.script([{"stream": {"gate": "held"}}])
    ask(stack, "late", expires_in_s=2)
    pieces, envelope = read(stack)
    assert (pieces, envelope["error_code"]) == ([(1, 0, "You ")], "expired")


def test_no_word_of_a_stream_is_in_the_log(running: Running):
    """P4: neither of the pieces nor of the prompt; after all that the tests before have made of them."""
    stack, _fake = running
    ask(stack, "logged")
    assert read(stack)[1]["status"] == "success"
    output = stack.processes[0].output()
    assert "Content generated" in output
    assert not [word for word in ("asked:", "Question of") if word in output]


def test_a_sigterm_lets_a_stream_end(gemini_stack: Running):
    """As any call: it goes on, its pieces too, and the worker ends with its envelope. The last test of its worker."""
    stack, fake = gemini_stack
    fake.reset()
    fake.script([{"stream": {"gate": "held"}}])
    ask(stack, "stopped")
    stack.answers(1)
    stack.processes[0].signal_group(signal.SIGTERM)
    stack.processes[0].wait_for_output("Draining")
    fake.open_gate("held")
    assert stack.processes[0].wait(25) == 0
    pieces, envelope = read(stack)
    assert "".join(text for *_, text in pieces) == "asked: Question of stopped"
    assert envelope["content"] == "You asked: Question of stopped"
    assert (stack.depth("gemini.responses"), len(fake.calls())) == (0, 1)
