"""The doors for requests and for work: what runs here, what is sent elsewhere, and when it is acked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.delivery import Delivered, Delivery
from bridge.requests import RequestDoor
from bridge.work import WorkDoor
from gateway.errors import ConnectionLost, Nacked, TooLarge
from gateway.lanes import Lane
from gateway.messages import Caller, Job
from tests.world import Channel, Source, World, delivery, job, world

REQUEST = {"request_id": "r-1", "prompt": "Hello canary-prompt"}
LOST = ConnectionLost("gone", queue="any")
FULL = Nacked("full", queue="any")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def requests_of(here: World, *, relay_all: bool = False) -> RequestDoor:
    return RequestDoor(
        lambda: here.settings, lambda: here.topology, lambda: cast("Any", here.publisher), relay_all=relay_all
    )


def work_of(here: World) -> WorkDoor:
    return WorkDoor(lambda: here.settings, lambda: cast("Any", here.publisher))


def arrival(channel: Channel, fields: object, source: Source | None = None, **facts: Any) -> Delivery:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return delivery(channel, body=body, source=source, **facts)


def test_a_request_that_comes_for_the_first_time_runs_here(here: World):
    """It stays unacked until its outcome is confirmed, and nothing is published for it before."""
    message = requests_of(here).open(arrival(channel := Channel(), REQUEST))
    assert isinstance(message, Delivered)
    (received,) = message.args
    assert isinstance(received, Job)
    assert (received.request_id, received.redelivered, received.hop) == ("r-1", False, 0)
    assert (message.actor_name, here.publisher.sent, channel.sent) == ("generate", [], [])


@pytest.mark.parametrize(("fields", "properties"), [({"priority": "batch"}, {}), ({}, {"priority": 1})])
@pytest.mark.parametrize(("redelivered", "relay_all"), [(False, False), (True, False), (False, True)])
def test_a_batch_request_is_sorted_out(
    here: World, fields: dict[str, Any], properties: dict[str, Any], redelivered: bool, relay_all: bool
):
    """By its field, or by AMQP's property: its queue is the one of its lane, and counts its deliveries."""
    door, channel, source = requests_of(here, relay_all=relay_all), Channel(), Source()
    assert door.open(arrival(channel, REQUEST | fields, source, redelivered=redelivered, **properties)) is None
    (copy,) = here.copies("gemini.batch")
    assert (copy.queue_name, copy.args[0].lane, copy.args[0].redelivered) == (
        "gemini.generate",
        Lane.BATCH,
        redelivered,
    )
    assert (channel.sent, source.sorted) == (["ack"], ["gemini.batch"])


def test_a_request_without_a_lane_costs_no_publish(here: World):
    """The path of everybody else is as short as ever."""
    assert isinstance(requests_of(here).open(arrival(Channel(), REQUEST, source := Source())), Delivered)
    assert (here.publisher.sent, source.sorted) == ([], [])


def test_where_tags_take_turns_a_request_is_sorted_by_its_tag(tmp_path: Path):
    """In both lanes; what a tag waits in says nothing of it."""
    with world(tmp_path, FAIRNESS_FIELD="tenant") as here:
        for number, lane in enumerate(("interactive", "batch")):
            fields = {"priority": lane, "metadata": {"tenant": "acme"}, "request_id": f"r-{number}"}
            assert requests_of(here).open(arrival(Channel(), REQUEST | fields)) is None
        assert [queue for queue, _body, _properties in here.publisher.sent] == [
            "gemini.generate.fair.6",
            "gemini.batch.fair.6",
        ]


@pytest.mark.parametrize("queue", ["gemini.batch", "gemini.batch.fair.3", "gemini.generate.fair.0"])
def test_work_of_a_lane_runs_from_its_queue(here: World, queue: str):
    """Whatever queue it lies in, it names the one that Dramatiq knows."""
    body = here.message(job(lane=Lane.BATCH)).encode()
    message = work_of(here).open(delivery(Channel(), queue=queue, body=body))
    assert isinstance(message, Delivered)
    assert message.args[0].lane is Lane.BATCH


def test_work_of_the_batch_lane_is_sent_anew_where_it_lies(here: World):
    """Its queue counts deliveries, too."""
    body, headers = here.message(job(lane=Lane.BATCH)).encode(), {"x-delivery-count": 10}
    assert work_of(here).open(delivery(channel := Channel(), queue="gemini.batch", body=body, headers=headers)) is None
    assert ([queue for queue, *_ in here.publisher.sent], channel.sent) == (["gemini.batch"], ["ack"])


@pytest.mark.parametrize(("redelivered", "relay_all"), [(True, False), (False, True), (True, True)])
def test_a_request_that_comes_again_is_relayed(here: World, redelivered: bool, relay_all: bool):
    """The work queue counts its deliveries from then on. `python -m bridge` relays all."""
    door = requests_of(here, relay_all=relay_all)
    assert door.open(arrival(channel := Channel(), REQUEST, redelivered=redelivered)) is None
    (copy,) = here.copies("gemini.generate")
    assert (copy.actor_name, copy.args[0].request_id, copy.args[0].redelivered) == ("generate", "r-1", redelivered)
    assert channel.sent == ["ack"]


def test_what_could_not_be_relayed_goes_back_a_moment_later(here: World):
    """Not at once: it would come back, and be refused again, as fast as it can loop."""
    here.publisher.refuse["gemini.generate"] = [FULL]
    source = Source()
    requests_of(here).open(arrival(channel := Channel(), REQUEST, source, redelivered=True))
    assert channel.sent == ["requeue"]
    assert source.later == [1.0]


def test_while_rabbitmq_takes_no_publishes_nothing_goes_to_and_fro(here: World):
    """F73: RabbitMQ 4 gives up what a queue of others has delivered 20 times, and drops it unless told where to."""
    here.publisher.refuse["gemini.generate"] = [LOST] * 30
    source = Source()
    requests_of(here).open(arrival(channel := Channel(), REQUEST, source, redelivered=True))
    assert source.later == [1.0] * 30
    assert channel.sent == ["ack"]


def test_what_is_too_large_to_be_relayed_is_kept(here: World):
    """F72: as it came, for that RabbitMQ has taken."""
    here.publisher.refuse["gemini.generate"] = [TooLarge("17000000 bytes", queue="gemini.generate")]
    requests_of(here).open(arrival(channel := Channel(), REQUEST, redelivered=True))
    ((queue, kept, _properties),) = here.publisher.sent
    assert (queue, json.loads(kept)) == ("gemini.requests.dead", REQUEST)
    assert channel.sent == ["ack"]


def test_a_refused_request_is_answered(here: World):
    """F1: with an error envelope, on its way to the callback queue; acked when that is confirmed."""
    requests_of(here).open(arrival(channel := Channel(), {"request_id": "r-1", "callback_queue": "answers"}))
    (copy,) = here.copies("gemini.callbacks")
    assert (copy.actor_name, copy.args[0].queue) == ("publish_error", "answers")
    assert "prompt" in json.loads(copy.args[0].body)["error"]
    assert channel.sent == ["ack"]


def test_the_same_refusal_has_the_same_message_id(here: World):
    """P2: also when the ack was lost, and the request comes again."""
    for _ in range(2):
        requests_of(here).open(arrival(Channel(), {"request_id": "r-1"}))
    first, second = here.copies("gemini.callbacks")
    assert first.args[0].message_id == second.args[0].message_id


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[]", b"[" * 100_000, b'{"a": ' + b"9" * 6000 + b"}"])
def test_a_message_that_names_nobody_is_kept(here: World, body: bytes, caplog: pytest.LogCaptureFixture):
    """F1, F2: as it came, with a reason, and nothing of it in the log."""
    requests_of(here).open(arrival(channel := Channel(), body))
    ((queue, kept, properties),) = here.publisher.sent
    assert (queue, kept) == ("gemini.requests.dead", body)
    assert (properties.headers or {})["x-source-queue"] == "gemini.requests"
    assert channel.sent == ["ack"]
    assert "999" not in caplog.text


def test_what_cannot_be_kept_stays_where_it_is(here: World):
    """Moving is copying, then removing."""
    here.publisher.refuse["gemini.requests.dead"] = [Nacked("full", queue="gemini.requests.dead")]
    requests_of(here).open(arrival(channel := Channel(), b"garbage"))
    assert channel.sent == ["requeue"]


def test_amqp_names_stand_in_for_fields(here: World):
    """Of a request without an id or a callback queue."""
    facts = {"correlation_id": "c-1", "reply_to": "answers"}
    message = requests_of(here).open(arrival(Channel(), {"prompt": "Hello"}, **facts))
    assert message is not None
    request = message.args[0].request
    assert (request.request_id, request.callback_queue) == ("c-1", "answers")


DIRECT = "amq.rabbitmq.reply-to.g1h2/AA=="


@pytest.mark.parametrize(
    ("body", "facts", "caller"),
    [
        ({}, {}, Caller()),
        ({}, {"correlation_id": "c-1"}, Caller(correlation_id="c-1")),
        ({}, {"correlation_id": b"\xff\x00"}, Caller(correlation_id="ÿ\x00", binary=True)),
        ({}, {"reply_to": "rpc.reply-x", "correlation_id": "c-1"}, Caller(correlation_id="c-1", waits=True)),
        ({}, {"reply_to": "/rpc.reply-x"}, Caller(waits=True)),
        ({}, {"reply_to": DIRECT}, Caller(waits=True)),
        ({"callback_queue": "amq.gen-x"}, {}, Caller(waits=True)),
        ({"callback_queue": "amq.rabbitmq.reply-to"}, {"reply_to": DIRECT}, Caller(waits=True)),
        ({"callback_queue": "answers"}, {"reply_to": DIRECT}, Caller()),
        ({}, {"reply_to": "gemini.responses"}, Caller()),
    ],
)
@pytest.mark.parametrize("how", ["here", "relayed", "refused"])
def test_who_asks_goes_with_the_request(
    here: World, body: dict[str, str], facts: dict[str, str], caller: Caller, how: str
):
    """K5: to where the answer is published, whatever way the request takes; also to its refusal."""
    fields = {"request_id": "r-1", "prompt": "" if how == "refused" else "Hello", **body}
    message = requests_of(here).open(arrival(Channel(), fields, redelivered=how == "relayed", **facts))
    if how == "here":
        assert message is not None
        assert message.args[0].caller == caller
    else:
        (copy,) = here.copies("gemini.generate" if how == "relayed" else "gemini.callbacks")
        assert copy.args[0].caller == caller


def test_a_binary_correlation_id_names_the_request(here: World):
    """The bytes of a UUID (pika#769): readable in a log."""
    message = requests_of(here).open(arrival(Channel(), {"prompt": "Hello"}, correlation_id=b"\xff\x00" * 8))
    assert message is not None
    assert message.args[0].request_id == "ff00" * 8


def test_no_prompt_is_logged(here: World, caplog: pytest.LogCaptureFixture):
    """P4: the line has the id and nothing of the body."""
    caplog.set_level("DEBUG")
    requests_of(here).open(arrival(Channel(), REQUEST))
    assert "Received request" in caplog.text
    assert "canary" not in caplog.text


def test_work_of_ours_runs(here: World):
    """Under the id that it was sent with: so it is known when it comes again."""
    sent = here.message(job())
    door = work_of(here)
    message = door.open(arrival(channel := Channel(), sent.encode(), queue="gemini.generate"))
    assert message is not None
    assert (message.message_id, message.args[0].request_id, channel.sent) == (sent.message_id, "r-1", [])


@pytest.mark.parametrize(("error", "settled"), [(None, "ack"), (FULL, "requeue")])
def test_a_foreign_message_is_acked_when_its_dead_copy_is_confirmed(here: World, error: Exception | None, settled: str):
    """F3: it runs nothing."""
    here.publisher.refuse["gemini.generate.dead"] = [error] if error else []
    door = work_of(here)
    assert door.open(arrival(channel := Channel(), {"actor_name": "generate"}, queue="gemini.generate")) is None
    assert channel.sent == [settled]


@pytest.mark.parametrize(("deliveries", "anew"), [(0, False), (9, False), (10, True), (19, True)])
def test_a_message_that_comes_again_and_again_is_sent_anew(here: World, deliveries: int, anew: bool):
    """F69: RabbitMQ counts those that have only waited, too. The ledger knows at which ones a process has died."""
    channel = Channel()
    message = here.message(job())
    headers = {"x-delivery-count": deliveries} if deliveries else None
    door = work_of(here)
    found = door.open(delivery(channel, queue="gemini.generate", body=message.encode(), headers=headers))
    assert (found is None) is anew
    assert [(queue, body) for queue, body, _ in here.publisher.sent] == [("gemini.generate", message.encode())] * anew
    assert channel.sent == ["ack"] * anew
    assert all(not properties.headers for _queue, _body, properties in here.publisher.sent)


def test_without_a_ledger_rabbitmq_alone_counts(tmp_path: Path):
    """What kills workers must come to an end."""
    with world(tmp_path, LEDGER_TTL_SECONDS="0") as here:
        door = work_of(here)
        headers = {"x-delivery-count": 19}
        again = delivery(Channel(), queue="gemini.generate", body=here.message(job()).encode(), headers=headers)
        assert door.open(again) is not None
