"""The README's commands, as they stand there: what a newcomer types works."""

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fake_openrouter.client import running
from tests.rabbitmq_server import RabbitmqServer
from tests.system.stack import ROOT, wait_until

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

#: Blocks in these languages hold no commands; all others do.
NO_COMMANDS = {"json", "text"}

#: Runs until Ctrl-C, and has a test of its own.
STAYS = "script/run --fake"

#: Every other command is run as it stands, but for these.
NOT_RUN = {
    "script/test": "runs this very test",
    'script/demo "your prompt"': "is script/demo with another text",
    'script/demo --real "your prompt"': "is paid",
    "script/run": "is paid",
    "script/chaos all": "takes hours",
    "heroku ps:scale worker=1 bridge=1": "needs an account",
    "docker compose up": "needs Docker",
    "docker compose up --scale gemini-client=3": "needs Docker",
    "docker compose --profile fake up": "needs Docker",
}

#: A port that nobody listens on.
NOWHERE = "amqp://guest:guest@127.0.0.1:1"

#: Each process that a test starts has this in its environment, and so do the processes that those start.
MARK = "README_TEST_MARK"

Output = Callable[[], str]

KEY = "sk-or-v1-readme-key-0001"


def commands() -> list[str]:
    """Each line of the README's blocks of commands, without its comment."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if language not in NO_COMMANDS for line in block.splitlines()]
    return [command for line in lines if (command := re.sub(r"(^|\s)#\s.*", "", line).strip())]


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def environment(rabbitmq_server: RabbitmqServer, vhost_url: str, tmp_path: Path, mark: str) -> Iterator[dict[str, str]]:
    """What a user has who has set it up: RabbitMQ, and a key; nothing of the test run's own."""
    with running(keys=[KEY]) as fake:
        yield {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "RABBITMQ_URL": vhost_url,
            "RABBITMQ_MANAGEMENT_URL": f"http://127.0.0.1:{rabbitmq_server.management_port}",
            "OPENROUTER_API_KEYS": KEY,
            "OPENROUTER_BASE_URL": f"{fake.base_url}/api/v1",
            "STATE_PATH": str(tmp_path / "state.sqlite3"),
            MARK: mark,
        }


def test_the_exceptions_are_commands_of_the_readme():
    """A command that was changed is run, or gets a reason of its own."""
    assert {STAYS, *NOT_RUN} <= set(commands())


@pytest.mark.parametrize("command", sorted(set(commands()) - {STAYS, *NOT_RUN}))
def test_a_command_works_as_it_stands(command: str, environment: dict[str, str], mark: str):
    """It ends with 0, and with it all that it has started."""
    with started(command, environment) as (process, _output):
        assert process.wait(120) == 0
    assert not marked(mark)


def test_script_run_stays_until_ctrl_c_and_what_it_says_works(environment: dict[str, str], mark: str, tmp_path: Path):
    """Where no RabbitMQ answers: the program that it prints gets an answer; then all of it ends, RabbitMQ too."""
    with started(STAYS, {**environment, "RABBITMQ_URL": NOWHERE}) as (process, output):
        wait_until(lambda: "The log:" in output() or process.poll() is not None, timeout_s=120, what="its readiness")
        (program,) = re.findall(r"^import .*^connection\.close\(\)$", output(), re.MULTILINE | re.DOTALL)
        (tmp_path / "ask.py").write_text(program)
        answer = subprocess.run(
            [ROOT / ".venv/bin/python", tmp_path / "ask.py"], capture_output=True, text=True, check=True, timeout=60
        )
        assert json.loads(answer.stdout)["status"] == "success"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
    assert not marked(mark)


def test_script_run_ends_when_the_worker_does(environment: dict[str, str], mark: str):
    """With the worker's last words, and its exit code."""
    with started(STAYS, environment | {"WORKER_THREADS": "many"}) as (process, output):
        assert process.wait(60) == 2
    assert "invalid int value: 'many'" in output().partition("the worker has ended by itself with 2")[2]
    assert not marked(mark)


@pytest.mark.skipif((ROOT / ".env").exists(), reason="the keys of .env would be used")
def test_script_run_without_a_key_says_what_to_do(environment: dict[str, str]):
    """In one line, before anything is started."""
    with started("script/run", environment | {"OPENROUTER_API_KEYS": ""}) as (process, output):
        assert process.wait(60) == 78
    assert re.fullmatch(r"script/run: set OPENROUTER_API_KEYS .* script/run --fake\n", output())


@contextmanager
def started(command: str, environment: dict[str, str]) -> Iterator[tuple["subprocess.Popen[bytes]", Output]]:
    """A command in the checkout, as in a terminal of its own, and what it has said so far; ended if need be."""
    log = Path(environment["STATE_PATH"]).with_name("output.log")
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, lambda: log.read_text(errors="replace")
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace"))  # pytest shows it
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def marked(mark: str) -> list[str]:
    """The processes that were started with this mark and have not ended, as their command lines."""
    needle, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended in between
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found
