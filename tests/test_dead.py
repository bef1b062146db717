"""The operator's command for dead letters, on a real RabbitMQ."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from actors import generate, publish_success
from console.cli import main
from console.dead.letter import DeadLetter
from dev.waiting import wait_until
from gateway.errors import ErrorCode
from gateway.lanes import Lane
from gateway.messages import Caller, Reply
from gateway.rabbitmq.dead_letters import dead_letter
from gateway.rabbitmq.topology import CALLBACKS, DEAD_REQUESTS, DEAD_WORK, WORK
from tests.world import World, job, world

pytestmark = pytest.mark.rabbitmq

Run = Callable[..., tuple[int, str, str]]

REJECTED = b'{"request_id": "r-9", "prompt": ["canary-prompt"]}'


@pytest.fixture
def channel(vhost_url: str) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(vhost_url))
    made = connection.channel()
    made.confirm_delivery()
    yield made
    connection.close()


@pytest.fixture
def here(tmp_path: Path, vhost_url: str, channel: Any) -> Iterator[World]:
    with world(tmp_path, RABBITMQ_URL=vhost_url) as made:
        made.topology.declare(channel.connection)
        yield made


@pytest.fixture
def run(here: World, vhost_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit code, stdout and stderr."""
    monkeypatch.setenv("RABBITMQ_URL", vhost_url)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["failed", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def reject(channel: Any, body: bytes = REJECTED, *, request_id: str = "r-9", **sender: Any) -> str:
    """A body that the bridge has refused; the id of its letter."""
    properties = dead_letter(
        reason="prompt: Input should be a valid string",
        code=ErrorCode.INVALID_REQUEST,
        source="gemini.requests",
        request_id=request_id,
        sender=pika.BasicProperties(**sender) if sender else None,
    )
    channel.basic_publish("", DEAD_REQUESTS, body, properties)
    assert properties.message_id is not None
    return properties.message_id


def bury_work(channel: Any) -> str:
    """Work that ended its worker until RabbitMQ had enough: dead-lettered by the queue itself."""
    message = generate.message(job(1, retry_count=3, upstream_retries=2, caller=Caller(correlation_id="c-1")))
    channel.basic_publish("", WORK, message.encode(), pika.BasicProperties(message_id=message.message_id))
    before = depth(channel, DEAD_WORK)

    def dead() -> bool:
        method, _properties, _body = channel.basic_get(WORK)
        if method is not None:
            channel.basic_nack(method.delivery_tag, requeue=True)
        return depth(channel, DEAD_WORK) > before

    wait_until(dead, what="the delivery limit")
    return str(message.message_id)


def bury_reply(channel: Any) -> str:
    """An answer that its queue refused for a day."""
    reply = Reply(
        request_id="r-2",
        queue="gone",
        body='{"content": "canary-answer"}',
        message_id="m-2",
        success=True,
        attempts=40,
        first_refused_at=1_700_000_000.0,
        caller=Caller(correlation_id="c-2", waits=True),
    )
    properties = dead_letter(
        reason="the callback queue refused the reply at every try",
        code=ErrorCode.CALLBACK_REFUSED,
        source="gone",
        request_id="r-2",
        first_seen=1_700_000_000.0,
        attempts=40,
    )
    channel.basic_publish("", DEAD_WORK, publish_success.message(reply).encode(), properties)
    assert properties.message_id is not None
    return properties.message_id


def depth(channel: Any, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def comes_to(channel: Any, queue: str, count: int) -> bool:
    """Whether so many are in the queue, once RabbitMQ has put back what was looked at."""
    return bool(wait_until(lambda: depth(channel, queue) == count, what=f"{count} in {queue}"))


def take(channel: Any, queue: str) -> tuple[pika.BasicProperties, bytes]:
    _method, properties, body = wait_until(lambda: _got(channel, queue), what=f"a message in {queue}")
    return properties, body


def _got(channel: Any, queue: str) -> Any:
    message = channel.basic_get(queue, auto_ack=True)
    return message if message[0] is not None else None


def test_the_list_says_why_since_when_and_after_how_many_attempts(run: Run, channel: Any):
    """Nothing of a prompt or an answer, and everything stays where it was, in its order."""
    rejected, reply = reject(channel), bury_reply(channel)
    reject(channel, b"second", request_id="r-10")
    code, out, _ = run("list")
    header, *lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert (header[0], lines[0][0]) == ("id", rejected)
    assert lines[0][1:4] == ["request", "r-9", "invalid_request"]
    assert lines[2][:5] == [reply, "reply", "r-2", "callback_refused", "40"]
    assert "at every try" in " ".join(lines[2])
    letters = json.loads(run("list", "--json")[1])["letters"]
    assert [(letter["id"], letter["first"]) for letter in letters][2:] == [(reply, "2023-11-14T22:13:20Z")]
    assert "canary" not in out
    assert take(channel, DEAD_REQUESTS)[1] == REJECTED


def test_an_empty_list_is_good_news(run: Run):
    assert run("list") == (0, "", "No dead letters.\n")
    assert run() == (0, "", "No dead letters.\n")


def test_work_that_ended_its_worker_is_named(run: Run, channel: Any):
    """RabbitMQ has moved it by itself, without a reason of ours."""
    bury_work(channel)
    _, out, _ = run("list", "--code", "delivery_limit")
    assert "delivered again and again from gemini.generate" in out
    assert " r-1 " in out


def test_a_body_is_shown_only_to_who_asks_for_it(run: Run, channel: Any):
    letter = reject(channel)
    code, out, _ = run("show", "--id", letter)
    assert (code, json.loads(out)["request_id"], "canary" in out) == (0, "r-9", False)
    code, out, _ = run("show", "--id", "r-9", "--body")
    assert (code, json.loads(out)["body"]) == (0, REJECTED.decode())


def test_a_redriven_request_has_what_its_sender_gave_it(run: Run, channel: Any):
    """Without his reply queue the answer would go to the queue of all; it is marked, and counted each time."""
    reject(channel, reply_to="mine", correlation_id="c-1", content_type="application/json", headers={"tenant": "acme"})
    for count in (1, 2):
        assert run("redrive", "--all", "--yes")[0] == 0
        _method, properties, body = channel.basic_get("gemini.requests", auto_ack=True)
        assert body == REJECTED
        assert (properties.reply_to, properties.correlation_id) == ("mine", "c-1")
        assert properties.content_type == "application/json"
        assert properties.headers == {"tenant": "acme", "x-redriven": count}
        again = {name: getattr(properties, name) for name in ("reply_to", "correlation_id", "content_type", "headers")}
        reject(channel, **again)
    assert json.loads(run("show", "--all")[1])["redriven"] == 2


@pytest.mark.parametrize("count", [True, -1, 0, 2**63 - 1, "many"])
def test_a_count_that_a_sender_has_made_up_stops_no_redrive(count: Any):
    """Anybody may write the header: what is no count of ours counts as none."""
    sender = pika.BasicProperties(headers={"x-redriven": count})
    properties = dead_letter(reason="no", code=ErrorCode.INVALID_REQUEST, source="gemini.requests", sender=sender)
    again = DeadLetter(DEAD_REQUESTS, b"{}", properties).redriven("gemini.requests")
    assert again is not None
    assert again[2].headers == {"x-redriven": 1}
    assert b"".join(again[2].encode())


def test_what_a_sender_has_given_is_shown_without_what_it_holds(run: Run, channel: Any):
    """P4, S6: where the answer would go and under which id, on one line each; of headers only their names."""
    reject(
        channel,
        reply_to="mine\nINFO forged",
        correlation_id="sk-or-v1-canary-key-0001",
        headers={"authorization": "Bearer canary-token", "h\x1b[31m": "canary-text"},
    )
    out = run("show", "--all")[1]
    assert json.loads(out)["sender"] == {
        "reply_to": r"mine\nINFO forged",
        "correlation_id": "****",
        "headers": ["authorization", r"h\x1b[31m"],
    }
    assert "canary" not in out


@pytest.mark.parametrize(("lane", "queue"), [(Lane.INTERACTIVE, "gemini.generate"), (Lane.BATCH, "gemini.batch")])
def test_work_goes_back_to_its_lane(lane: Lane, queue: str):
    """A redrive puts no batch request before those who wait."""
    body = generate.message(job(1, lane=lane, retry_count=3)).encode()
    again = DeadLetter(DEAD_WORK, body, pika.BasicProperties()).redriven("gemini.requests")
    assert again is not None
    assert again[0] == queue


@pytest.mark.parametrize("said", [None, "text", {"reply_to": 7, "headers": "x", "priority": []}])
def test_a_letter_of_which_nothing_was_kept_is_shown_and_sent_again(said: object):
    """One from an older version, or one that somebody else has written: under its own name, and that of its request."""
    headers = {} if said is None else {"x-sender": said}
    letter = DeadLetter(DEAD_REQUESTS, b"{}", pika.BasicProperties(message_id="m-1", headers=headers))
    assert letter.facts["sender"] == ({"headers": []} if isinstance(said, dict) else None)
    again = letter.redriven("gemini.requests")
    assert again is not None
    assert again[2].headers == {"x-redriven": 1}


def test_a_redrive_is_dry_unless_it_is_meant(run: Run, channel: Any):
    reject(channel)
    code, out, _ = run("redrive", "--all")
    assert code == 0
    assert "1 would be sent. Add --yes" in out
    assert comes_to(channel, DEAD_REQUESTS, 1)
    assert depth(channel, "gemini.requests") == 0


def test_a_rejected_request_goes_back_as_it_came(run: Run, channel: Any):
    """Its own bytes, its own id."""
    reject(channel)
    code, _, _ = run("redrive", "--all", "--yes")
    properties, body = take(channel, "gemini.requests")
    assert (code, body, properties.correlation_id) == (0, REJECTED, "r-9")
    assert depth(channel, DEAD_REQUESTS) == 0


def test_work_starts_its_schedule_anew_under_its_old_id(run: Run, channel: Any):
    message_id = bury_work(channel)
    code, _, _ = run("redrive", "--id", "r-1", "--yes")
    _, body = take(channel, WORK)
    sent = json.loads(body)
    assert (code, sent["message_id"], sent["args"][0]["retry_count"], sent["args"][0]["upstream_retries"]) == (
        0,
        message_id,
        0,
        0,
    )
    assert sent["args"][0]["request"]["prompt"] == "Hello canary-prompt"
    assert sent["args"][0]["caller"]["correlation_id"] == "c-1"


def test_a_reply_is_delivered_and_not_generated_again(run: Run, channel: Any):
    """With the `message_id` of its envelope, and a day of tries before it."""
    bury_reply(channel)
    code, _, _ = run("redrive", "--code", "callback_refused", "--yes")
    _, body = take(channel, CALLBACKS)
    reply = json.loads(body)["args"][0]
    assert (code, reply["message_id"], reply["attempts"], "first_refused_at" in reply) == (0, "m-2", 0, False)
    assert Caller(**reply["caller"]) == Caller(correlation_id="c-2", waits=True)


@pytest.mark.parametrize(("bury", "queue"), [(bury_work, WORK), (bury_reply, CALLBACKS)])
def test_a_message_of_ours_keeps_its_count_through_all_its_queues(
    run: Run, channel: Any, bury: Callable[[Any], str], queue: str
):
    """What waits is a copy with properties of its own: the count goes with the message, and is shown by a header."""
    bury(channel)
    for count in (1, 2):
        assert run("redrive", "--all", "--yes")[0] == 0
        properties, body = take(channel, queue)
        assert (properties.headers["x-redriven"], json.loads(body)["args"][0]["redriven"]) == (count, count)
        channel.basic_publish("", DEAD_WORK, body, dead_letter(reason="no", code=ErrorCode.INTERNAL, source=queue))
    assert json.loads(run("show", "--all")[1])["redriven"] == 2


def test_what_is_no_message_of_ours_stays(run: Run, channel: Any):
    channel.basic_publish("", DEAD_WORK, b"foreign", pika.BasicProperties(message_id="x"))
    code, out, _ = run("redrive", "--all", "--yes")
    assert (code, "stays: it is no message of ours" in out) == (1, True)
    assert comes_to(channel, DEAD_WORK, 1)


def test_a_queue_that_does_not_take_it_loses_nothing(run: Run, channel: Any):
    """The letter is removed when its copy is confirmed, and not before."""
    reject(channel)
    channel.queue_delete("gemini.requests")
    code, _, err = run("redrive", "--all", "--yes")
    assert (code, "does not exist" in err) == (1, True)
    assert comes_to(channel, DEAD_REQUESTS, 1)


@pytest.mark.parametrize(("typed", "left"), [("1", 2), ("2", 0)])
def test_a_drop_asks_how_many(run: Run, channel: Any, monkeypatch: pytest.MonkeyPatch, typed: str, left: int):
    """Whoever does not know how many they are does not know what is dropped."""
    reject(channel)
    reject(channel, b"second")
    monkeypatch.setattr("builtins.input", lambda _question: typed)
    assert run("drop", "--all")[0] == (0 if left == 0 else 1)
    assert comes_to(channel, DEAD_REQUESTS, left)


def test_a_drop_takes_the_chosen_ones_only(run: Run, channel: Any):
    reject(channel)
    reject(channel, b"second", request_id="r-10")
    assert run("drop", "--id", "r-10", "--count", "1")[0] == 0
    assert take(channel, DEAD_REQUESTS)[1] == REJECTED


def test_an_export_has_every_byte(run: Run, channel: Any):
    """JSON lines; bytes that are no text in base64. It takes nothing away."""
    reject(channel)
    reject(channel, b"\xff\x00")
    code, out, _ = run("export")
    first, second = map(json.loads, out.splitlines())
    assert (code, first["body"], second["body_base64"]) == (0, REJECTED.decode(), "/wA=")
    assert comes_to(channel, DEAD_REQUESTS, 2)


def test_a_limit_is_said(run: Run, channel: Any):
    for _ in range(3):
        reject(channel)
    code, out, err = run("list", "--limit", "2")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "holds 3, only the first 2 are looked at" in err


@pytest.mark.parametrize("arguments", [["redrive"], ["drop"], ["show"], ["list", "--queue", "other"], ["other"]])
def test_a_wrong_command_says_how_it_is_used(run: Run, arguments: list[str]):
    code, _, err = run(*arguments)
    assert code == 64
    assert "Usage: gemini failed" in err


def test_a_server_that_is_away_is_said_in_a_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    """Without a traceback, and without the password."""
    monkeypatch.setattr("console.dead.queues.CONNECT_DEADLINE_S", 0.1)
    monkeypatch.setenv("RABBITMQ_URL", "amqp://guest:canary-password@127.0.0.1:1/")
    code, _, err = run("list")
    assert (code, err.count("\n"), "cannot be reached" in err, "canary" in err) == (69, 1, True, False)


@pytest.mark.parametrize(
    "headers",
    [{"x-reason": 7, "x-attempts": "many", "x-first-time": -1}, {"x-death": "odd"}, {"x-death": []}, {"x-death": [1]}],
)
def test_odd_headers_are_survived(headers: dict[str, Any]):
    """Anybody may publish into a dead queue."""
    facts = DeadLetter(DEAD_WORK, b"x", pika.BasicProperties(headers=headers)).facts
    assert (facts["reason"], facts["attempts"], facts["first"], facts["kind"]) == (None, None, None, "unknown")


def test_a_header_cannot_forge_a_line():
    letter = DeadLetter(DEAD_WORK, b"x", pika.BasicProperties(message_id="a\nb", headers={"x-reason": "c\x1b[31m"}))
    assert (letter.id, letter.facts["reason"]) == (r"a\nb", r"c\x1b[31m")
