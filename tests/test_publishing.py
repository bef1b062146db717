"""One envelope, however late its confirm: who publishes a stored answer."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.waiting import wait_until
from tests.world import World, job, world


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


class LateConfirm:
    """Publishes when it is let go, as RabbitMQ does when it is busy."""

    def __init__(self, here: World) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._publish = here.publisher.publish
        self.fault: Exception | None = None
        here.publisher.publish = self  # type: ignore[assignment]

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self.begun.set()
        self.go_on.wait(60)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self._publish(*arguments, **named)


class Lookups:
    """Counts how often the ledger was asked to begin."""

    def __init__(self, here: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._begin = here.stores.ledger.begin
        monkeypatch.setattr(here.stores.ledger, "begin", self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        return self._begin(*arguments, **named)


def deliver_twice(here: World, confirm: LateConfirm, lookups: Lookups) -> list[tuple[str, ...]]:
    """Two deliveries of one message; the second has lost its patience long before the first has its confirm."""
    message, settled = here.message(job()), list[tuple[str, ...]]()
    deliveries = [threading.Thread(target=lambda: settled.append(here.deliver(message))) for _ in range(2)]
    deliveries[0].start()
    assert confirm.begun.wait(30)
    deliveries[1].start()
    wait_until(lambda: lookups.count > 5, what="the second delivery to look for a while")
    confirm.go_on.set()
    for delivery in deliveries:
        delivery.join(30)
    return settled


def test_an_envelope_is_not_sent_again_while_its_process_waits_for_the_confirm(
    here: World, monkeypatch: pytest.MonkeyPatch
):
    """P2: nobody has crashed, so there is no copy; the second delivery is a duplicate."""
    assert deliver_twice(here, LateConfirm(here), Lookups(here, monkeypatch)) == [("ack",), ("ack",)]
    assert len(here.publisher.to("gemini.responses")) == 1
    assert len(here.provider.calls) == 1


def test_an_answer_that_its_process_could_not_publish_is_published_by_the_redelivery(
    here: World, monkeypatch: pytest.MonkeyPatch
):
    """P1: a fault of ours ends the first delivery, which goes back; the second sends what is stored, without a call."""
    confirm = LateConfirm(here)
    confirm.fault = ValueError("a fault of ours")
    assert sorted(deliver_twice(here, confirm, Lookups(here, monkeypatch))) == [("ack",), ("requeue",)]
    assert len(here.publisher.to("gemini.responses")) == 1
    assert len(here.provider.calls) == 1
