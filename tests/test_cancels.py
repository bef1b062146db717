"""The door for cancels: a mark in the ledger, and nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.cancels import CancelDoor
from bridge.requests import RequestDoor
from dev.waiting import wait_until
from gateway.errors import StoreUnavailable
from gateway.ledger.store import NullLedger
from tests.world import Channel, Source, World, delivery, job, world


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def opened(here: World, body: bytes, ledger: Any = None, source: Source | None = None) -> tuple[str, ...]:
    """How the delivery of a cancel is settled."""
    door = CancelDoor(lambda: ledger or here.stores.ledger, lambda: cast("Any", here.publisher))
    channel = Channel()
    door.open(delivery(channel, queue="gemini.cancels", body=body, source=source))
    wait_until(lambda: channel.sent, what="the end of the delivery")
    return tuple(channel.sent)


def test_a_cancel_is_acked_when_the_ledger_has_its_mark(here: World):
    """From then on the request makes no call, wherever it is."""
    assert opened(here, b'{"cancel": "r-1"}') == ("ack",)
    assert here.deliver(here.message(job(1))) == ("ack",)
    assert here.deliver(here.message(job(2))) == ("ack",)
    cancelled, answered = here.publisher.to("gemini.responses")
    assert (cancelled["request_id"], cancelled["error_code"]) == ("r-1", "cancelled")
    assert (answered["request_id"], answered["status"]) == ("r-2", "success")
    assert len(here.provider.calls) == 1


def test_a_cancel_waits_while_the_ledger_is_away(here: World, monkeypatch: pytest.MonkeyPatch):
    """It goes back to its queue after a pause."""
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(here.stores.ledger, "cancel", lambda _id: (_ for _ in ()).throw(StoreUnavailable("away")))
        source = Source()
        assert opened(here, b'{"cancel": "r-1"}', source=source) == ("requeue",)
        assert source.later == [1.0]
    assert opened(here, b'{"cancel": "r-1"}') == ("ack",)


def test_a_fault_of_the_worker_leaves_no_cancel_unsettled(here: World, monkeypatch: pytest.MonkeyPatch):
    """It happens on a thread that nobody looks at."""
    monkeypatch.setattr(here.stores.ledger, "cancel", lambda _id: {}["a fault of ours"])
    assert opened(here, b'{"cancel": "r-1"}') == ("ack",)
    assert [queue for queue, _body, _properties in here.publisher.sent] == ["gemini.requests.dead"]


def test_without_a_ledger_a_cancel_is_said_to_have_no_effect(here: World, caplog: pytest.LogCaptureFixture):
    """LEDGER_TTL_SECONDS=0."""
    assert opened(here, b'{"cancel": "r-1"}', NullLedger(lambda _calls: None)) == ("ack",)
    assert "without effect" in caplog.text


@pytest.mark.parametrize("body", [b"garbage", b"{}", b'{"cancel": 1.5}', b'{"cancel": "r-1", "prompt": "Hello"}'])
def test_what_is_no_cancel_is_kept_for_an_operator(here: World, body: bytes):
    """Anybody may publish to this queue."""
    assert opened(here, body) == ("ack",)
    assert [(queue, kept) for queue, kept, _ in here.publisher.sent] == [("gemini.requests.dead", body)]


def test_a_cancel_among_the_requests_is_moved_to_its_own_queue(here: World):
    """With nothing of its properties and fields but the id; it runs nothing, and is not answered."""
    door = RequestDoor(lambda: here.settings, lambda: here.topology, lambda: cast("Any", here.publisher))
    body = json.dumps({"cancel": "r-1", "metadata": {"n": 1}, "callback_queue": "answers"}).encode()
    assert door.open(delivery(channel := Channel(), body=body, reply_to="answers", expiration="1")) is None
    ((queue, moved, properties),) = here.publisher.sent
    assert (queue, json.loads(moved)) == ("gemini.cancels", {"cancel": "r-1"})
    assert (properties.delivery_mode, properties.reply_to, properties.expiration) == (2, None, None)
    assert channel.sent == ["ack"]
