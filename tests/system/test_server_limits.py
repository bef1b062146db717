"""Limits of RabbitMQ that are its own or of other people's queues; RabbitMQ 4 has lower ones."""

import signal

import pytest

from dev.rabbitmq import Node
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

LARGEST = 100_000


def answer(text: str) -> dict[str, object]:
    message = {"role": "assistant", "content": text}
    return {
        "body": {
            "id": "gen-1",
            "model": "google/gemini-2.5-flash",
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    }


def test_an_answer_that_is_larger_than_rabbitmq_takes_holds_up_nobody(own_rabbitmq: Node, stack_at: MakeStack):
    """F72: its producer is told, and it is called once. The queue of the second one is missing: the notice is held."""
    own_rabbitmq.limit_messages(LARGEST)
    with own_rabbitmq.fresh_vhost() as url:
        stack, fake = stack_at(url)
        fake.script([{"prompt": "long", **answer("x" * LARGEST)}, {}])
        stack.start_worker()
        stack.publish(
            {"request_id": "long", "prompt": "A long one"},
            {"request_id": "held", "prompt": "A long one", "callback_queue": "missing"},
            {"request_id": "short", "prompt": "A short one"},
        )
        answers = {one["request_id"]: one for one in stack.answers(2)}
        assert answers["short"]["status"] == "success"
        assert answers["long"]["error_code"] == "callback_refused"
        assert "max_message_size" in answers["long"]["error"]
        (late,) = stack.answers(1, queue="missing", timeout_s=60)
        assert (late["request_id"], late["error_code"]) == ("held", "callback_refused")
        assert fake.stats()["total"] == 3


def test_a_request_queue_that_drops_what_comes_again_loses_nothing(make_stack: MakeStack):
    """F73: with a limit of two deliveries, as a quorum queue of RabbitMQ 4 has 20 unless told otherwise."""
    stack, fake = make_stack()
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 2}
    with stack.channel() as channel:
        channel.queue_declare("gemini.requests", durable=True, arguments=arguments)
        channel.basic_publish("", "gemini.requests", b'{"request_id": "r-1", "prompt": "Hello"}')
    fake.script([{"gate": "held"}])
    for number in range(1, 5):
        worker = stack.start_worker()
        fake.wait_for_calls(number)
        worker.signal_group(signal.SIGKILL)
        worker.wait()
    fake.open_gate("held")
    stack.start_worker()
    assert [one["request_id"] for one in stack.answers(1, timeout_s=60)] == ["r-1"]
