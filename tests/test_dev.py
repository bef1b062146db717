"""What scripts and tests share: commands that are followed, conditions, and a RabbitMQ that is named."""

import os
import subprocess
from pathlib import Path

import pytest

from dev.guide import guide
from dev.launcher import ROOT, Process
from dev.waiting import TooLate, wait_until
from gateway.settings import Settings


@pytest.fixture
def process(tmp_path: Path):
    """A shell that says a part of a line, and the rest when there is a file `go`."""
    command = "printf 'one\\ntw'; until [ -e go ]; do sleep 0.01; done; printf 'o\\n'"
    process = Process("shell", command, environment=dict(os.environ), cwd=tmp_path, log=tmp_path / "log")
    yield process
    process.close()


def test_a_line_is_told_once_and_whole(process: Process, tmp_path: Path):
    """What has no end yet is told when it has."""
    process.wait_for_output("tw")
    assert process.new_lines() == ["one"]
    assert process.new_lines() == []
    (tmp_path / "go").touch()
    assert process.wait() == 0
    assert process.new_lines() == ["two"]


def test_output_that_cannot_come_any_more_is_not_waited_for(process: Process, tmp_path: Path):
    """The last words are in the error."""
    (tmp_path / "go").touch()
    with pytest.raises(TooLate, match=r"shell ended with 0\none\ntwo"):
        process.wait_for_output("three", timeout_s=300)


def test_a_condition_that_stays_false_is_named():
    """Its last look comes after the deadline."""
    with pytest.raises(TooLate, match="rain did not come true in 0 s"):
        wait_until(lambda: False, timeout_s=0, what="rain")


def test_a_rabbitmq_that_is_named_is_used_as_it_is(tmp_path: Path):
    """By a command in the folder where it was typed; its exit code is kept."""
    said = subprocess.run(
        [ROOT / "script/rabbitmq", "run", "--", "sh", "-c", "pwd; echo $RABBITMQ_URL; exit 3"],
        cwd=tmp_path,
        env={**os.environ, "RABBITMQ_URL": "amqp://named"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.stdout, said.returncode) == (f"{tmp_path}\namqp://named\n", 3), said.stderr


def test_the_guide_has_a_line_that_shows_this_worker():
    """RabbitMQ's port and the state are private: `gemini` would look elsewhere. No password is in it."""
    settings = Settings()
    ours = {"STATE_PATH": "/a folder/worker.sqlite3", "OPENROUTER_API_KEYS": "sk-or-v1-fake"}
    (line,) = [
        one for one in guide("amqp://guest:guest@127.0.0.1:5/", settings, ours).splitlines() if "gemini status" in one
    ]
    shown = subprocess.run(
        ["sh", "-c", line.replace(".venv/bin/gemini status", 'echo "$RABBITMQ_URL $STATE_PATH $OPENROUTER_API_KEYS"')],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "amqp://guest:guest@127.0.0.1:5/ /a folder/worker.sqlite3 sk-or-v1-fake\n"


def test_a_password_is_not_in_the_guide(monkeypatch: pytest.MonkeyPatch):
    """It is in the environment already."""
    monkeypatch.setenv("RABBITMQ_URL", "amqp://user:canary@host/")
    shown = guide("amqp://user:canary@host/", Settings())
    assert ("canary" in shown, "\n.venv/bin/gemini status" in shown) == (False, True)
