"""A rolling deploy: bridges and workers of before run beside workers that take requests by themselves."""

import signal
from collections import defaultdict

import pytest

from dev.stack import Stack
from dev.waiting import wait_until
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: A worker with this setting does what one of before does: it takes what a bridge has relayed, and no requests.
AS_BEFORE = {"REQUEST_QUEUE": "nobody.asks.here"}


def test_old_bridges_and_workers_beside_new_ones_lose_nothing(make_stack: MakeStack):
    """F53: on the way there a worker is killed, and in the end the old ones are stopped."""
    stack, fake = make_stack(REQUEST_TIMEOUT_SECONDS=2)
    fake.script([{"delay_s": 0.05}])
    bridge, before, now = stack.start_bridge(), stack.start_worker(**AS_BEFORE), stack.start_worker()
    wait_until(lambda: stack.consumers("gemini.requests") == 2, what="the bridge and the new worker to take requests")
    answers = Answers(stack)
    answers.ask(100)
    now.wait_for_output("Published response", count=10)
    now.signal_group(signal.SIGKILL)
    answers.ask(100)
    now.wait()
    again = stack.start_worker()
    for process in (bridge, before):
        process.terminate()
        assert process.wait() == 0
    answers.ask(100)
    answers.wait_for_all()
    assert answers.with_other_copies() == []
    assert "Received request" in bridge.output()
    assert "Published response for request" in before.output()
    assert "Received request" in again.output()
    for queue in ("gemini.requests", "gemini.generate", "gemini.requests.dead", "gemini.generate.dead"):
        stack.wait_for_depth(queue, 0)


class Answers:
    """What was asked, and what has come; a crash may leave copies of one envelope."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._asked: list[str] = []
        self._came: defaultdict[str, set[str]] = defaultdict(set)

    def ask(self, count: int) -> None:
        names = [f"r-{len(self._asked) + number}" for number in range(count)]
        self._asked += names
        self._stack.publish(*({"request_id": name, "prompt": f"Question {name}"} for name in names))

    def wait_for_all(self) -> None:
        with self._stack.channel() as channel:

            def all_there() -> bool:
                while (message := channel.basic_get("gemini.responses", auto_ack=True))[0] is not None:
                    self._came[message[1].correlation_id].add(message[1].message_id)
                return set(self._asked) <= set(self._came)

            wait_until(all_there, timeout_s=90, what="an answer to every request")

    def with_other_copies(self) -> list[str]:
        """Requests whose envelopes differ."""
        return [name for name, envelopes in self._came.items() if len(envelopes) > 1]
