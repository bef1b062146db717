"""The clients against the real worker, and the program of the README as it stands there."""

import os
import re
import subprocess
import sys
import uuid
from contextlib import closing

import pytest

from dev.launcher import ROOT
from dev.stack import Stack
from fake_openrouter.client import FakeClient
from gemini_client.errors import Cancelled, InvalidRequest
from gemini_client.sync import Client
from tests.clients import CLIENTS, OnALoop

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

Running = tuple[Stack, FakeClient]


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> type[Client] | type[OnALoop]:
    return CLIENTS[request.param]


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/messages.md", "docs/client.md"])
def test_a_program_of_the_pages_works_as_it_stands(page: str, running_stack: Running):
    """It prints an answer and ends."""
    stack, _ = running_stack
    assert programs(page)
    for program in programs(page):
        environment = {"PATH": os.environ["PATH"], "RABBITMQ_URL": stack.url}
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.strip()


def test_a_client_asks_streams_collects_and_is_told_of_errors(kind, running_stack: Running):
    """One scenario over both ways to be answered."""
    stack, _ = running_stack
    queue = f"client.{uuid.uuid4().hex[:8]}"
    for options in ({}, {"queue_name": queue}):
        with closing(kind(stack.url, **options)) as client:
            result = client.ask("Hello?", timeout_s=60, metadata={"n": 1}, priority="interactive")
            assert result.content
            assert (result.envelope["metadata"], result.envelope["attempts"]) == ({"n": 1}, 1)
            stream = client.stream("Say something", timeout_s=60)
            pieces = list(stream)
            assert stream.result().content
            assert pieces
            assert "".join(piece.text for piece in pieces) == stream.result().content
            with pytest.raises(InvalidRequest, match="did you mean max_output_tokens"):
                client.ask("Hello?", timeout_s=60, parameters={"max_tokens": 5})


def test_a_request_that_is_cancelled_before_it_is_read_says_so(kind, running_stack: Running):
    """A cancel is remembered: the request comes after it."""
    stack, fake = running_stack
    with closing(kind(stack.url)) as client:
        request_id = uuid.uuid4().hex
        client.cancel(request_id)
        stack.processes[0].wait_for_output(f"[{request_id}] Cancelled by its sender")
        with pytest.raises(Cancelled):
            client.ask("Not wanted", request_id=request_id, timeout_s=60)
        assert "Not wanted" not in str(fake.calls())


def test_an_answer_waits_in_a_named_queue_for_the_next_process(kind, running_stack: Running):
    """Sent again with the same request_id and content it is not paid for again."""
    stack, fake = running_stack
    queue, request_id = f"client.{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    with closing(kind(stack.url, queue_name=queue)) as client:
        client.send(f"Once {request_id}", request_id=request_id)
    with closing(kind(stack.url, queue_name=queue)) as client:
        first = client.collect(request_id, timeout_s=60)
    with closing(kind(stack.url, queue_name=queue)) as client:
        assert client.ask(f"Once {request_id}", request_id=request_id, timeout_s=60).content == first.content
    assert sum(request_id in str(call) for call in fake.calls()) == 1
