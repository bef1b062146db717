"""A dead letter that is sent again is answered as if it had never been dead."""

import subprocess
import sys

import pytest

from dev.launcher import ROOT
from dev.stack import Stack
from fake_openrouter.client import FakeClient
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]


def redrive(stack: Stack) -> str:
    """What an operator types; what it says."""
    command = [sys.executable, "-m", "console", "failed", "redrive", "--all", "--yes"]
    done = subprocess.run(command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused_for_now(make_stack: MakeStack, **properties: object) -> tuple[Stack, FakeClient]:
    """A request that only its properties say where to answer, dead by a rule that is withdrawn."""
    stack, fake = make_stack()
    strict = stack.start_worker(CALLBACK_QUEUE_PATTERN="backend[.].*")
    with stack.channel() as channel:
        channel.queue_declare("mine", durable=True)
    stack.publish({"prompt": "Hello"}, **properties)
    stack.wait_for_depth("gemini.requests.dead", 1)
    strict.terminate()
    assert strict.wait() == 0
    return stack, fake


def test_a_redriven_request_is_answered_where_and_as_its_sender_has_asked(make_stack: MakeStack):
    """In his reply queue, under his correlation id: nothing of it stands in the body."""
    stack, fake = refused_for_now(make_stack, reply_to="mine", correlation_id="c-1", headers={"tenant": "acme"})
    assert "to gemini.requests" in redrive(stack)
    stack.start_worker()
    (answer,) = stack.answers(1, queue="mine")
    assert (answer["request_id"], answer["status"], answer.properties.correlation_id) == ("c-1", "success", "c-1")
    assert len(fake.calls()) == 1
    assert [stack.depth(queue) for queue in ("gemini.responses", "gemini.requests.dead")] == [0, 0]


def test_a_redriven_request_is_marked_however_often_it_dies(make_stack: MakeStack):
    """A count, one more each time, beside the headers of its sender."""
    stack, _fake = refused_for_now(make_stack, reply_to="mine", headers={"tenant": "acme"})
    for count in (1, 2):
        redrive(stack)
        with stack.channel() as channel:
            _method, properties, _body = channel.basic_get("gemini.requests")
            assert (properties.reply_to, properties.headers) == ("mine", {"tenant": "acme", "x-redriven": count})
        strict = stack.start_worker(CALLBACK_QUEUE_PATTERN="backend[.].*")
        stack.wait_for_depth("gemini.requests.dead", 1)
        strict.terminate()
        assert strict.wait() == 0
