"""Keys that are changed while the worker works: by the file that they are in, and by SIGHUP."""

import os
import signal
from pathlib import Path

import pytest

from dev.process_group import workers
from dev.waiting import wait_until
from tests.system.conftest import KEYS, MakeStack

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

OLD, NEW = KEYS[:2]


def request(number: int) -> dict[str, object]:
    return {"request_id": f"r-{number}", "prompt": f"Question {number}"}


def put(file: Path, text: str) -> None:
    """In one step, as whoever mounts secrets does."""
    other = file.with_suffix(".new")
    other.write_text(text)
    other.replace(file)


def test_a_changed_file_changes_the_keys(make_stack: MakeStack, tmp_path: Path):
    """In every process; a call that runs ends with its key; a file that cannot be used changes nothing."""
    file = tmp_path / "keys"
    put(file, OLD)
    stack, fake = make_stack(keys=2, OPENROUTER_API_KEYS_FILE=file, WORKER_PROCESSES=2)
    stack.environment["OPENROUTER_API_KEYS"] = ""
    fake.script([{"gate": "held", "prompt": "Question 0"}])
    worker = stack.start_worker()
    stack.publish(request(0))
    fake.wait_for_calls(1)
    put(file, f"# changed\n{NEW}\n")
    worker.wait_for_output("The keys were read again: 1 new, 1 gone, 1 in use", count=2)
    stack.publish(*(request(number) for number in range(1, 9)))
    answers = stack.answers(8)
    put(file, "<your-key>")
    worker.wait_for_output("The keys stay as they are", count=2)
    stack.publish(request(9))
    answers += stack.answers(1)
    fake.open_gate("held")
    answers += stack.answers(1)
    assert {answer["status"] for answer in answers} == {"success"}
    assert {(call["prompt"] == "Question 0", call["key_last4"]) for call in fake.calls()} == {
        (True, OLD[-4:]),
        (False, NEW[-4:]),
    }
    assert not any(key in worker.output() for key in KEYS)


def test_sighup_starts_the_worker_anew_with_the_settings_of_then(make_stack: MakeStack, tmp_path: Path):
    """Dramatiq's own way: it drains first, so a call that runs ends; what comes meanwhile is answered after it."""
    file = tmp_path / "keys"
    put(file, OLD)
    stack, fake = make_stack(keys=2, OPENROUTER_API_KEYS_FILE=file)
    stack.environment["OPENROUTER_API_KEYS"] = ""
    fake.script([{"gate": "held", "prompt": "Question 0"}])
    worker = stack.start_worker()
    (before,) = workers(worker.popen.pid)
    stack.publish(request(0))
    fake.wait_for_calls(1)
    put(file, NEW)
    os.kill(worker.popen.pid, signal.SIGHUP)
    worker.wait_for_output("Draining")
    stack.publish(request(1))
    fake.open_gate("held")
    answers = stack.answers(2)
    assert sorted((answer["request_id"], answer["status"]) for answer in answers) == [
        ("r-0", "success"),
        ("r-1", "success"),
    ]
    assert [call["key_last4"] for call in fake.calls()] == [OLD[-4:], NEW[-4:]]
    wait_until(
        lambda: workers(worker.popen.pid) not in ([], [before]), what="another process in the place of the first"
    )
    assert not worker.ended
