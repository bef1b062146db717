"""The clients for Python, against a real RabbitMQ and a worker that does what a test says."""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from dev.launcher import ROOT
from dev.ports import free_ports
from gateway.errors import ErrorCode
from gemini_client import errors
from gemini_client.errors import Cancelled, Disconnected, NoAnswer, NotSent, NoWorker, RequestFailed, SendUnknown
from gemini_client.mailbox import MOST_KEPT, REMEMBERED, Mailbox, Waiting
from gemini_client.messages import Delta, Incoming, Result, incoming
from gemini_client.sync import Client
from tests.chaos.proxy import Proxy
from tests.clients import CLIENTS, Scripted

#: aiormq leaves the socket of a connection that broke to the garbage collector.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

pytestmark = [pytest.mark.rabbitmq, LEFT_OPEN]

Make = Callable[..., Any]


@pytest.fixture
def worker(vhost_url: str) -> Iterator[Scripted]:
    worker = Scripted(vhost_url)
    yield worker
    worker.close()


@pytest.fixture(params=CLIENTS)
def make(request: pytest.FixtureRequest, vhost_url: str) -> Iterator[Make]:
    """Makes clients, of each kind; they are closed with the test."""
    with ExitStack() as cleanup:

        def made(url: str = vhost_url, **options: Any) -> Any:
            client = CLIENTS[request.param](url, **options)
            cleanup.callback(getattr(client, "end", client.close))
            return client

        yield made


@pytest.fixture
def proxy(vhost_url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the server, and the URL that leads through it."""
    parts = urlsplit(vhost_url)
    proxy = Proxy(parts.port or 5672)
    yield proxy, urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))
    proxy.close()


def own_queue() -> str:
    return f"client.{uuid.uuid4().hex[:8]}"


def test_a_request_is_answered_by_direct_reply_to(make: Make, worker: Scripted):
    """It is persistent, has AMQP's timestamp, and expires when nobody waits for it any more."""
    pending = make().send("Hello?", timeout_s=50, parameters={"top_k": 3}, metadata=None)
    request, properties = worker.next()
    assert request == {
        "request_id": pending.request_id,
        "prompt": "Hello?",
        "parameters": {"top_k": 3},
        "expires_in_s": 50,
    }
    assert (properties.delivery_mode, properties.correlation_id) == (2, pending.request_id)
    assert abs(properties.timestamp - time.time()) < 3600
    worker.answer(properties)
    result = pending.result()
    assert (result.request_id, result.content, result.usage) == (pending.request_id, "Hello", {"total_tokens": 3})
    assert pending.result() is result


def test_a_named_queue_is_declared_and_gets_the_answer(make: Make, worker: Scripted):
    """Its requests have no deadline of the client's making: the answer can be collected."""
    queue = own_queue()
    pending = make(queue_name=queue).send("Hello?")
    request, properties = worker.next()
    assert request == {"request_id": pending.request_id, "prompt": "Hello?", "callback_queue": queue}
    worker.answer(properties)
    assert pending.result().content == "Hello"


def test_deltas_come_as_they_are_said_and_then_the_result(make: Make, worker: Scripted):
    """Copies, and pieces of an attempt that is void, are left out."""
    stream = make().stream("Hello?")
    request, properties = worker.next()
    assert request["stream"] is True
    pieces = iter(stream)
    said = [(1, 0, "He"), (1, 1, "llo"), (1, 1, "llo"), (2, 0, "Good"), (1, 2, "!"), (2, 1, " day")]
    worker.say(properties, attempt=1, seq=0, text="He")
    assert next(pieces) == Delta(1, 0, "He")  # before there is an answer
    for attempt, seq, text in said[1:]:
        worker.say(properties, attempt=attempt, seq=seq, text=text)
    worker.answer(properties, "Good day")
    assert list(pieces) == [Delta(1, 1, "llo"), Delta(2, 0, "Good"), Delta(2, 1, " day")]
    assert stream.result().content == "Good day"


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_is_of_the_class_of_its_code(code: ErrorCode):
    """Each code of the worker has one of its own; a code that is to come has none."""
    came = incoming(_error(code), correlation_id="r", message_id="m")
    assert came is not None
    assert type(came.content) is errors.BY_CODE[code] is not RequestFailed
    assert (came.content.code, str(came.content), came.content.request_id) == (code, "why", "r")
    other = incoming(_error("of_a_newer_worker"), correlation_id="r", message_id="m")
    assert other is not None
    assert type(other.content) is RequestFailed
    assert len(set(errors.BY_CODE.values())) == len(ErrorCode)


def _error(code: str) -> bytes:
    return json.dumps({"request_id": "r", "status": "error", "error": "why", "error_code": code}).encode()


def test_a_cancel_is_sent_and_the_request_says_so(make: Make, worker: Scripted):
    """The cancel itself has no answer."""
    client = make()
    pending = client.send("Hello?")
    _request, properties = worker.next()
    client.cancel(pending.request_id)
    assert worker.next()[0] == {"cancel": pending.request_id}
    worker.say(properties, "m-1", status="error", error="Cancelled", error_code="cancelled")
    with pytest.raises(Cancelled):
        pending.result()


def test_without_a_worker_that_ever_ran_the_error_says_what_to_do(make: Make):
    """And the client can be used after it."""
    client = make()
    for _ in range(2):
        with pytest.raises(NoWorker, match=r"gemini\.requests does not exist: start a worker"):
            client.ask("Hello?", timeout_s=30)


def test_a_copy_of_an_envelope_is_dropped(make: Make, worker: Scripted):
    """It has the same message_id; the next request gets its own answer."""
    client = make(queue_name=own_queue())
    first = client.send("One", request_id="a")
    _, properties = worker.next()
    worker.answer(properties, "one", "m-1")
    assert first.result().content == "one"
    again = client.send("One", request_id="a")
    _, properties = worker.next()
    worker.answer(properties, "a copy", "m-1")
    worker.answer(properties, "another answer", "m-2")
    assert again.result().content == "another answer"


def test_an_answer_that_is_late_can_be_collected(make: Make, worker: Scripted):
    """Nobody waits for it any more; the time is over for this wait, not for the request."""
    client = make(queue_name=own_queue())
    pending = client.send("Hello?", timeout_s=0.3, request_id="late")
    with pytest.raises(NoAnswer, match=r"No answer to late within 0\.3 s"):
        pending.result()
    worker.answer(worker.next()[1])
    assert client.collect("late").content == "Hello"


def test_an_answer_in_a_named_queue_outlives_its_client(make: Make, worker: Scripted):
    """Another process asks for it by its request_id; then it is gone from the queue."""
    queue = own_queue()
    client = make(queue_name=queue)
    client.send("Hello?", request_id="kept")
    client.close()
    worker.answer(worker.next()[1])
    second = make(queue_name=queue)
    assert second.collect("kept").content == "Hello"
    second.close()
    assert worker.channel.queue_declare(queue, passive=True).method.message_count == 0


def test_an_answer_that_came_and_was_not_read_stays_in_the_named_queue(make: Make, worker: Scripted):
    """Its client is closed with the answer in hand: it belongs to whoever reads it."""
    queue = own_queue()
    client = make(queue_name=queue)
    client.send("Hello?", request_id="unread")
    read = client.send("And now?", request_id="read")
    for _ in range(2):
        request, properties = worker.next()
        worker.answer(properties, request["prompt"], request["request_id"])
    assert read.result().content == "And now?"  # so the one before it has come, too
    client.close()
    second = make(queue_name=queue)
    assert second.collect("unread").content == "Hello?"
    second.close()
    assert worker.channel.queue_declare(queue, passive=True).method.message_count == 0


def test_an_answer_that_comes_again_before_it_is_read_is_read_once(
    make: Make, worker: Scripted, proxy: tuple[Proxy, str]
):
    """The connection went between: RabbitMQ delivers it anew, and nothing of it is left."""
    queue = own_queue()
    client = make(proxy[1], queue_name=queue)
    pending, other = client.send("Hello?", request_id="twice"), client.send("Hello?", request_id="other")
    for _ in range(2):
        request, properties = worker.next()
        worker.answer(properties, request["prompt"], request["request_id"])
    assert other.result().content == "Hello?"
    cut_off = client.send("Hello?")
    proxy[0].reset()
    with pytest.raises(Disconnected):
        cut_off.result()
    worker.next()
    last = client.send("Connects again", request_id="last")
    worker.answer(worker.next()[1], "Hello?", "last")
    assert last.result().content == "Hello?"  # behind the copy
    assert pending.result().content == "Hello?"
    client.close()
    assert worker.channel.queue_declare(queue, passive=True).method.message_count == 0


def test_a_lost_connection_is_told_to_all_who_wait_and_the_next_call_connects(
    make: Make, worker: Scripted, proxy: tuple[Proxy, str]
):
    """By direct reply-to the answers are lost, and the error says it."""
    client = make(proxy[1])
    waiting = [client.send("Hello?") for _ in range(3)]
    proxy[0].reset()
    for pending in waiting:
        with pytest.raises(Disconnected, match="will be answered, it is lost") as caught:
            pending.result()
        assert (caught.value.request_id, caught.value.collectable) == (pending.request_id, False)
        worker.next()
    pending = client.send("And now?")
    worker.answer(worker.next()[1])
    assert pending.result().content == "Hello"


def test_with_a_named_queue_a_lost_connection_loses_no_answer(make: Make, worker: Scripted, proxy: tuple[Proxy, str]):
    """The error says how to get it."""
    client = make(proxy[1], queue_name=own_queue())
    pending = client.send("Hello?", request_id="kept")
    proxy[0].reset()
    with pytest.raises(Disconnected, match=r"collect\('kept'\)"):
        pending.result()
    worker.answer(worker.next()[1])
    assert client.collect("kept").content == "Hello"


def test_a_request_without_a_confirm_may_have_been_sent(make: Make, worker: Scripted, proxy: tuple[Proxy, str]):
    """Nobody knows, and so the error says."""
    client = make(proxy[1])
    client.send("Connects")
    proxy[0].swallow_confirms()
    asking = threading.Thread(target=lambda: caught.append(_raised(client, "Unknown")))
    caught: list[Exception] = []
    asking.start()
    assert [worker.next()[0]["prompt"] for _ in range(2)] == ["Connects", "Unknown"]  # RabbitMQ has it
    proxy[0].reset()
    asking.join(30)
    assert [type(error) for error in caught] == [SendUnknown]


def _raised(client: Any, prompt: str) -> Exception:
    with pytest.raises(errors.ClientError) as caught:
        client.ask(prompt)
    return caught.value


def test_rabbitmq_that_is_away_is_told_at_once_without_the_password(make: Make):
    """Nothing was sent."""
    (port,) = free_ports(1)
    with pytest.raises(NotSent) as caught:
        make(f"amqp://user:secret@127.0.0.1:{port}/").ask("Hello?")
    assert "does not let us in" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_one_client_reads_a_named_queue(make: Make, worker: Scripted):
    """A second one would take the answers of the first."""
    queue = own_queue()
    first = make(queue_name=queue)
    pending = first.send("Hello?")
    with pytest.raises(NotSent, match="one client a queue"):
        make(queue_name=queue).send("Hello?")
    worker.answer(worker.next()[1])
    assert pending.result().content == "Hello"


def test_a_queue_that_is_there_is_used_as_it_is(make: Make, worker: Scripted):
    """Declared with other arguments."""
    queue = own_queue()
    worker.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    pending = make(queue_name=queue).send("Hello?")
    worker.answer(worker.next()[1])
    assert pending.result().content == "Hello"


def test_who_waits_when_a_client_is_closed_gets_an_error(make: Make, worker: Scripted):
    """And so does who asks after it."""
    client = make()
    pending = client.send("Hello?")
    client.close()
    with pytest.raises(Disconnected):
        pending.result()


def test_heartbeats_are_served_while_nobody_asks(make: Make, worker: Scripted, vhost_url: str):
    """RabbitMQ closes a connection that is silent for two heartbeats: this one is still open after more."""
    client = make(f"{vhost_url}?heartbeat=1")
    waiting = client.send("Hello?")
    _, properties = worker.next()
    threading.Event().wait(4)  # real time: a silent client would be cut off in it
    worker.answer(properties)
    assert waiting.result().content == "Hello"


def test_many_threads_share_one_client(vhost_url: str, worker: Scripted):
    """Each gets its own answer."""
    results: dict[int, str] = {}
    with Client(vhost_url) as client, ThreadPoolExecutor(20) as threads:
        futures = {number: threads.submit(client.ask, str(number)) for number in range(200)}
        for _ in futures:
            request, properties = worker.next()
            worker.answer(properties, request["prompt"], f"m-{request['prompt']}")
        results = {number: future.result(30).content for number, future in futures.items()}
    assert results == {number: str(number) for number in range(200)}


def test_a_request_is_waited_for_once(make: Make, worker: Scripted):
    """Two who wait for one answer would each get a part of it."""
    client = make()
    client.send("Hello?", request_id="one")
    with pytest.raises(ValueError, match="one is waited for already"):
        client.send("Hello?", request_id="one")


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b'{"status": "odd"}', b'{"seq": "0"}', b"{}"])
def test_what_is_not_the_workers_is_dropped(body: bytes):
    """Anybody may publish to a queue."""
    came = incoming(body, correlation_id="r", message_id=None)
    settled: list[bool] = []
    Mailbox(collectable=True).deliver(came, lambda: settled.append(True))
    assert (came, settled) == (None, [True])


def test_memory_of_copies_and_of_what_nobody_reads_has_an_end():
    """By direct reply-to what came too late is dropped, the oldest first."""
    mailbox = Mailbox(collectable=False)
    for number in range(REMEMBERED + 1_500):
        waiting = Waiting(f"r-{number}", lambda _event, settle: settle())
        if number >= 1_500:
            mailbox.expect(waiting)
        mailbox.deliver(Incoming(f"r-{number}", f"m-{number}", Result("r", "x", {})), lambda: None)
    assert (len(mailbox._seen), len(mailbox._kept)) == (REMEMBERED, MOST_KEPT)
    assert "r-0" not in mailbox._kept


def test_an_import_of_the_client_needs_nothing_of_the_worker():
    """With its packages hidden, but for the client's own."""
    program = """
import sys
for name in ("dramatiq", "gevent", "jsonschema", "pydantic", "pydantic_settings", "redis", "requests", "rich", "typer"):
    sys.modules[name] = None
import gemini_client.aio, gemini_client.sync
sys.exit(any(name.startswith(("actors", "bridge", "console", "middleware")) for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
