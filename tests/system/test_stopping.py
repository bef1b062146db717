"""Workers and bridges that are asked to stop: they drain, and what they have not done goes to others."""

import signal
import socket
from collections import Counter

import pytest

from dev.launcher import procfile
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def request(number: int) -> dict[str, object]:
    return {"request_id": f"r-{number}", "prompt": f"Question {number}"}


def test_a_second_sigterm_does_not_cut_a_call_short(make_stack: MakeStack):
    """F50: called once, answered, exit code 0."""
    stack, fake = make_stack()
    fake.script([{"gate": "held"}])
    worker = stack.start_worker()
    stack.publish(request(1))
    fake.wait_for_calls(1)
    worker.signal_group(signal.SIGTERM)
    worker.wait_for_output("Draining")
    worker.signal_group(signal.SIGTERM)
    fake.open_gate("held")
    assert worker.wait(25) == 0
    (answer,) = stack.answers(1)
    assert (answer["request_id"], answer["status"]) == ("r-1", "success")
    assert len(fake.calls()) == 1
    assert stack.depth("gemini.generate") == 0


def test_what_a_stopping_worker_has_not_started_goes_to_another(make_stack: MakeStack):
    """F51: prefetched requests do not wait for the drain."""
    stack, fake = make_stack(WORKER_THREADS=2)
    fake.script([{"gate": "held"}])
    worker = stack.start_worker()
    stack.publish(*(request(n) for n in range(4)))
    fake.wait_for_calls(2)
    worker.signal_group(signal.SIGTERM)
    worker.wait_for_output("Draining")
    stack.wait_for_depth("gemini.requests", 2)
    fake.open_gate("held")
    assert worker.wait(25) == 0
    stack.start_worker()
    assert len(stack.answers(4)) == 4
    assert Counter(call["prompt"] for call in fake.calls()).most_common(1)[0][1] == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("process", ["worker", "bridge"])
def test_a_process_that_waits_for_rabbitmq_can_be_stopped(make_stack: MakeStack, process: str, signum: signal.Signals):
    """F10, F51: somebody has forgotten to start RabbitMQ, and presses Ctrl-C. By itself it would wait for a minute."""
    stack, _fake = make_stack()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        waiting = stack.start(process, RABBITMQ_URL=f"amqp://127.0.0.1:{nobody.getsockname()[1]}/")
        waiting.wait_for_output("trying again", count=3)
        waiting.signal_group(signum)
        assert waiting.wait(20) == 0


def test_a_call_that_outlasts_the_grace_period_leaves_its_request_in_rabbitmq(make_stack: MakeStack):
    """F51: the worker is gone before the platform kills it, and the request is delivered again."""
    stack, fake = make_stack(REQUEST_TIMEOUT_SECONDS=90)
    fake.script([{"gate": "held"}])
    # The Procfile gives 25 s, of the 30 that Heroku gives.
    in_a_hurry = procfile()["worker"].replace("--worker-shutdown-timeout 25000", "--worker-shutdown-timeout 2000")
    worker = stack.start_worker(command=in_a_hurry)
    stack.publish(request(1))
    fake.wait_for_calls(1)
    worker.signal_group(signal.SIGTERM)
    worker.wait()  # long before the call is over
    stack.wait_for_depth("gemini.requests", 1)
    assert stack.depth("gemini.responses") == 0
