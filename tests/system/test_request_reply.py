"""Clients that wait for their answer, as RabbitMQ's tutorial six and pika's example write them, and what they send."""

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pika
import pytest

from dev.stack import Stack
from dev.waiting import wait_until
from fake_openrouter.client import FakeClient
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

Running = tuple[Stack, FakeClient]

#: How long a client waits for its answer, in seconds.
PATIENCE_S = 30.0


class TutorialClient:
    """The client of RabbitMQ's tutorial six; another queue to ask, and JSON in both directions.

    https://www.rabbitmq.com/tutorials/tutorial-six-python
    """

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        result = self.channel.queue_declare(queue="", exclusive=True)
        self.callback_queue = result.method.queue
        self.channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)
        self.response: bytes | None = None
        self.corr_id: str | None = None

    def on_response(self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        if self.corr_id == properties.correlation_id:
            self.response = body

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        self.response = None
        self.corr_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key="gemini.requests",
            properties=pika.BasicProperties(reply_to=self.callback_queue, correlation_id=self.corr_id),
            body=json.dumps(request),
        )
        wait_until(self._has_come, timeout_s=PATIENCE_S, what="the response")
        assert self.response is not None
        return dict(json.loads(self.response))

    def _has_come(self) -> bool:
        self.connection.process_data_events(time_limit=0.1)
        return self.response is not None

    def close(self) -> None:
        self.connection.close()


class DirectClient:
    """The client half of pika's example of direct reply-to: no queue, and the same channel for both directions.

    https://github.com/pika/pika/blob/main/docs/examples/direct_reply_to.rst
    """

    def __init__(self, url: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.replies: list[tuple[pika.BasicProperties, dict[str, Any]]] = []
        self.channel.basic_consume("amq.rabbitmq.reply-to", self.on_client_rx_reply_from_server, auto_ack=True)

    def on_client_rx_reply_from_server(
        self, _channel: Any, _method: Any, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self.replies.append((properties, json.loads(body)))

    def ask(self, request: dict[str, Any], **properties: Any) -> None:
        self.channel.basic_publish(
            exchange="",
            routing_key="gemini.requests",
            body=json.dumps(request),
            properties=pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", **properties),
        )

    def answer(self) -> tuple[pika.BasicProperties, dict[str, Any]]:
        wait_until(self._has_come, timeout_s=PATIENCE_S, what="the reply")
        return self.replies.pop(0)

    def _has_come(self) -> bool:
        self.connection.process_data_events(time_limit=0.1)
        return bool(self.replies)

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def tutorial_client(running_stack: Running) -> Iterator[TutorialClient]:
    with closing(TutorialClient(running_stack[0].url)) as client:
        yield client


@pytest.fixture
def direct_client(running_stack: Running) -> Iterator[DirectClient]:
    with closing(DirectClient(running_stack[0].url)) as client:
        yield client


def test_the_client_of_tutorial_six_gets_its_answers(tutorial_client: TutorialClient):
    """K5, row 4: with the correlation_id that it compares, and an exclusive queue that RabbitMQ has named."""
    assert tutorial_client.call({"request_id": "t-1", "prompt": "Hello"})["status"] == "success"
    answer = tutorial_client.call({"prompt": "Hello again"})
    assert (answer["status"], answer["request_id"]) == ("success", tutorial_client.corr_id)
    assert tutorial_client.call({"request_id": "t-2", "prompt": ""})["error_code"] == "invalid_request"


def test_the_client_of_direct_reply_to_gets_its_answers(direct_client: DirectClient):
    """K5, row 4a: pika's example, without any id, and one that tells its answers apart. The body may name it."""
    direct_client.ask({"request_id": "d-1", "prompt": "Marco"})
    properties, answer = direct_client.answer()
    assert (answer["status"], properties.correlation_id) == ("success", "d-1")
    direct_client.ask({"request_id": "d-2", "prompt": "Marco"}, correlation_id="as it came")
    properties, answer = direct_client.answer()
    assert (answer["request_id"], properties.correlation_id) == ("d-2", "as it came")
    direct_client.ask({"prompt": "Marco"})
    assert direct_client.answer()[1]["status"] == "success"
    direct_client.ask({"prompt": "Marco"}, correlation_id=b"\xff" * 16)
    properties, answer = direct_client.answer()
    assert (answer["request_id"], properties.correlation_id) == ("ff" * 16, b"\xff" * 16)
    direct_client.ask({"request_id": "d-3", "prompt": "Marco", "callback_queue": "amq.rabbitmq.reply-to"})
    assert direct_client.answer()[1]["request_id"] == "d-3"
    direct_client.ask({"request_id": "d-4"})
    assert direct_client.answer()[1]["error_code"] == "invalid_request"
    assert direct_client.replies == []


def test_an_answer_finds_its_client_after_a_wait(running_stack: Running, direct_client: DirectClient):
    """K5: the address and the correlation_id are in the copy that waits for the provider."""
    _stack, fake = running_stack
    fake.script([{"prompt": "Marco waits", "status": 503, "times": 1}])
    direct_client.ask({"request_id": "d-5", "prompt": "Marco waits"}, correlation_id="c-5")
    properties, answer = direct_client.answer()
    assert (answer["status"], properties.correlation_id) == ("success", "c-5")


def test_an_answer_whose_client_has_left_is_kept_for_an_operator(make_stack: MakeStack):
    """K5, row 18: also where missing callback queues are made, no queue is; each call is paid for once."""
    stack, fake = make_stack(CALLBACK_QUEUE_CREATE=1)
    with stack.channel() as channel:
        channel.queue_declare("gemini.requests", durable=True)
        channel.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
        for kind, reply_to in _addresses(channel).items():
            properties = pika.BasicProperties(reply_to=reply_to, correlation_id=kind)
            channel.basic_publish("", "gemini.requests", json.dumps({"prompt": "Hello"}), properties)
        wait_until(lambda: stack.depth("gemini.requests") == len(KINDS), what="the requests")
    stack.start_worker()
    stack.wait_for_depth("gemini.generate.dead", len(KINDS))
    replies = [_reply_in(stack, "gemini.generate.dead") for _ in KINDS]
    assert {reply["caller"]["correlation_id"] for reply in replies} == set(KINDS)
    assert {json.loads(reply["body"])["status"] for reply in replies} == {"success"}
    for reply in replies:
        with stack.channel() as channel, pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
            channel.queue_declare(reply["queue"], passive=True)
    assert len(fake.calls()) == len(KINDS)


#: How a client may name where it reads. nameko's standalone client has a queue of the second kind (nameko#359).
KINDS = ("named by RabbitMQ", "named by the client", "direct")


def _addresses(channel: Any) -> dict[str, str]:
    named = channel.queue_declare("", exclusive=True).method.queue
    own = channel.queue_declare("rpc.reply-standalone_rpc_proxy", exclusive=True).method.queue
    return dict(zip(KINDS, (named, own, "amq.rabbitmq.reply-to"), strict=True))


def _reply_in(stack: Stack, queue: str) -> dict[str, Any]:
    with stack.channel() as channel:
        _method, letter, body = channel.basic_get(queue, auto_ack=True)
    assert letter.headers["x-reason"] == "the client that waits for the reply is gone"
    return dict(json.loads(body)["args"][0])


def test_an_exchange_as_reply_to_is_refused_in_words(running_stack: Running):
    """K5, row 18a: no queue of that name is made, and nothing is paid for."""
    stack, fake = running_stack
    before = len(fake.calls())
    stack.publish({"request_id": "spring", "prompt": "Hello"}, reply_to="an.exchange/a.key")
    stack.wait_for_depth("gemini.requests.dead", 1)
    with stack.channel() as channel:
        _method, letter, _body = channel.basic_get("gemini.requests.dead", auto_ack=True)
        assert "only queues are answered" in letter.headers["x-reason"]
        assert letter.headers["x-sender"]["reply_to"] == "an.exchange/a.key"
    assert len(fake.calls()) == before


def _latin_1(request: dict[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False).encode("latin-1")


READ: list[tuple[Callable[[dict[str, Any]], bytes], dict[str, Any], dict[str, Any]]] = [
    (lambda r: gzip.compress(json.dumps(r).encode()), {}, {"content_encoding": "gzip"}),
    (_latin_1, {}, {"content_encoding": "iso-8859-1"}),
    (_latin_1, {}, {"content_type": "application/json; charset=ISO-8859-1"}),
    (lambda r: json.dumps(r).encode("utf-16"), {}, {}),
    (lambda r: json.dumps(r).encode("utf-8-sig") + b"\x00", {}, {"content_encoding": "utf-8"}),
    (lambda r: json.dumps(r).encode(), {"parameters": {"max_output_tokens": 64.0, "top_k": 40.0}}, {}),
    (lambda r: json.dumps(r).encode(), {"metadata": [], "parameters": [], "model": "", "retry_count": 0.0}, {}),
]


def test_requests_in_other_forms_are_read(running_stack: Running):
    """K7: the provider gets the prompt as it is meant, and integers as integers."""
    stack, fake = running_stack
    for number, (encoded, fields, properties) in enumerate(READ):
        request = {"request_id": 12_000 + number, "prompt": f"Grüße {number}", "callback_queue": "read", **fields}
        stack.publish(encoded(request), **properties)
    answers = {answer["request_id"]: answer for answer in stack.answers(len(READ), queue="read")}
    assert set(answers) == {str(12_000 + number) for number in range(len(READ))}
    assert {answer["status"] for answer in answers.values()} == {"success"}
    sent = [call["body"] for call in fake.calls() if call["prompt"].startswith("Grüße ")]
    assert len(sent) == len(READ)
    assert {type(body["max_tokens"]) for body in sent} == {int}


REFUSED: list[tuple[bytes, dict[str, Any], str]] = [
    (b'{"request_id": "f-0", "callback_queue": "refused", "prompt": "cut', {}, "not valid JSON"),
    (b'{"request_id": 1, "callback_queue": "refused", "prompt": "comma",}', {}, "not valid JSON"),
    (json.dumps(json.dumps({"request_id": "f-2", "callback_queue": "refused"})).encode(), {}, "encoded twice"),
    (b'[{"request_id": "f-3", "callback_queue": "refused", "prompt": "x"}]', {}, "one message a request"),
    (b"\x0b\x02\x80", {"content_encoding": "br", "reply_to": "refused", "correlation_id": "f-4"}, "'br' is not"),
    (gzip.compress(b" " * (8 * 1024 * 1024 + 1)), {"reply_to": "refused", "correlation_id": "f-5"}, "larger than"),
    (b'{"request_id": true, "callback_queue": "refused", "prompt": "x"}', {}, "request_id"),
    (b'{"request_id": "f-7", "callback_queue": "amq.direct", "prompt": "x"}', {"reply_to": "refused"}, "reserved"),
]


def test_whoever_can_be_found_in_a_refused_body_is_answered(running_stack: Running):
    """K7: in words, with the id that could be read."""
    stack, _fake = running_stack
    for body, properties, _says in REFUSED:
        stack.publish(body, **properties)
    answers = {answer["request_id"]: answer["error"] for answer in stack.answers(len(REFUSED), queue="refused")}
    ids = ["f-0", "1", "f-2", "f-3", "f-4", "f-5", "true", "f-7"]
    assert set(answers) == set(ids)
    for name, (_body, _properties, says) in zip(ids, REFUSED, strict=True):
        assert says in answers[name]
