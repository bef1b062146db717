"""The README's commands, as they stand there: what a newcomer types works."""

import json
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dev.backend import Backend
from dev.launcher import ROOT, Process
from dev.rabbitmq import Server
from dev.waiting import wait_until
from fake_openrouter.client import running

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

VENV_BIN = ROOT / ".venv/bin"

#: Blocks in these languages hold no commands; all others do. Programs: tests/system/test_client.py.
NO_COMMANDS = {"json", "python", "text"}

#: Runs until Ctrl-C, and has a test of its own.
STAYS = "script/run --fake"

#: Every other command is run as it stands, but for these.
NOT_RUN = {
    "script/test": "runs this very test",
    'script/demo --real "your prompt"': "is paid",
    "script/run": "is paid",
    ".venv/bin/gemini status": "needs a worker: tests/system/test_console.py",
    ".venv/bin/python -m console.web": "stays until it is stopped: tests/system/test_page.py",
    ".venv/bin/gemini doctor": "needs a worker: tests/system/test_console.py",
    '.venv/bin/gemini ask "your prompt"': "is paid, and needs a worker: tests/system/test_console.py",
    "docker compose up": "needs Docker",
    "docker compose up --scale gemini-client=3": "needs Docker",
    "docker compose --profile monitoring up": "needs Docker",
    "docker compose --profile fake up": "needs Docker",
}

#: A port that nobody listens on.
NOWHERE = "amqp://guest:guest@127.0.0.1:1"

#: Each process that a test starts has this in its environment, and so do the processes that those start.
MARK = "README_TEST_MARK"

KEY = "sk-or-v1-readme-key-0001"


def commands() -> list[str]:
    """Each line of the README's blocks of commands, without its comment."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for language, block in blocks if language not in NO_COMMANDS for line in block.splitlines()]
    return [command for line in lines if (command := re.sub(r"(^|\s)#\s.*", "", line).strip())]


#: What is run, in the order of the README.
RUN = [command for command in dict.fromkeys(commands()) if command not in {STAYS, *NOT_RUN}]


class Command(Process):
    """A command in the checkout, as in a terminal of its own; `mark` is in the environment of all that it starts."""

    def __init__(self, command: str, environment: dict[str, str], folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        log, state = (folder / f"{self.mark}.{ending}" for ending in ("log", "sqlite3"))
        marked = environment | {MARK: self.mark, "STATE_PATH": str(state)}
        super().__init__(command, f"exec {command}", environment=marked, cwd=ROOT, log=log)

    def code(self) -> int:
        """Its exit code, after its end."""
        return self.wait(120)

    def left(self) -> list[str]:
        """What it has started and what has not ended, as command lines."""
        needle, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended in between
                if needle in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
        return found

    def leaves_nothing(self) -> bool:
        """Whether all of it ends: the helpers of RabbitMQ do so by themselves, a moment after it."""
        wait_until(lambda: not self.left(), timeout_s=30, what=f"the end of all that {self.mark} has started")
        return True


def outside_path() -> str:
    """PATH without the environment that this test runs in: a newcomer has not entered it."""
    return os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != VENV_BIN)


Start = Callable[..., Command]


@pytest.fixture(scope="module")
def start(rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a command for a user who has set it up: RabbitMQ, and a key. None of this test run's settings is seen."""
    folder = tmp_path_factory.mktemp("readme")
    commands: list[Command] = []
    with rabbitmq_server.fresh_vhost() as url, running(keys=[KEY]) as fake:
        environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "PYTHON") if name in os.environ},
            "PATH": outside_path(),
            "RABBITMQ_URL": url,
            "OPENROUTER_API_KEYS": KEY,
            "OPENROUTER_BASE_URL": f"{fake.base_url}/api/v1",
        }

        def started(command: str, **settings: str) -> Command:
            commands.append(Command(command, environment | settings, folder))
            return commands[-1]

        yield started
        for command in commands:
            command.terminate()
        for command in commands:
            command.code()


@pytest.fixture(scope="module")
def run_fake(start: Start) -> Command:
    """`script/run --fake` where no RabbitMQ is named: it starts one."""
    return start(STAYS, RABBITMQ_URL="")


@pytest.fixture(scope="module")
def run_all(start: Start, run_fake: Command) -> dict[str, Command]:
    """All that are run, at once: they wait most of the time."""
    return {command: start(command) for command in RUN}


def test_the_exceptions_are_commands_of_the_readme():
    """A command that was changed is run, or gets a reason of its own."""
    assert {STAYS, *NOT_RUN} <= set(commands())


@pytest.mark.parametrize("command", RUN)
def test_a_command_works_as_it_stands(command: str, run_all: dict[str, Command]):
    """It ends with 0, and with it all that it has started."""
    assert run_all[command].code() == 0, run_all[command].output()
    assert run_all[command].leaves_nothing()


def test_script_run_stays_until_ctrl_c_and_what_it_says_works(run_fake: Command, tmp_path: Path):
    """The program that it prints gets an answer; then all of it ends, its RabbitMQ too."""
    wait_until(lambda: "The log:" in run_fake.output() or run_fake.ended, timeout_s=120, what="script/run")
    (program,) = re.findall(r"^import .*^connection\.close\(\)$", run_fake.output(), re.MULTILINE | re.DOTALL)
    (tmp_path / "ask.py").write_text(program)
    answer = subprocess.run(
        [VENV_BIN / "python", tmp_path / "ask.py"], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(answer.stdout)["status"] == "success"
    run_fake.signal_group(signal.SIGINT)
    assert run_fake.code() == 0, run_fake.output()
    assert run_fake.leaves_nothing()


def test_script_run_ends_when_the_worker_does(start: Start):
    """With the worker's last words, and its exit code."""
    run = start(STAYS, WORKER_THREADS="many")
    assert run.code() == 2
    assert "invalid int value: 'many'" in run.output().partition("the worker has ended by itself with 2")[2]
    assert run.leaves_nothing()


@pytest.mark.parametrize("command", ["script/run --fake", "script/demo"])
def test_a_rabbitmq_that_does_not_answer_is_named_with_what_to_do(start: Start, command: str):
    """In one line; none is started in its place."""
    run = start(command, RABBITMQ_URL=NOWHERE)
    assert run.code() == 69
    said = r"script/\w+: RabbitMQ at amqp://127.0.0.1:1 \(RABBITMQ_URL\) does not answer, .*"
    assert re.fullmatch(said + r" leave it empty to have a private one started\n", run.output())


@pytest.mark.parametrize("command", ["script/run --fake", "script/demo"])
def test_a_stand_in_stays_away_from_another_worker(start: Start, rabbitmq_server: Server, command: str):
    """It would answer some of that one's requests with made-up text."""
    with rabbitmq_server.fresh_vhost() as url, Backend(url).channel() as channel:
        channel.queue_declare("gemini.requests", durable=True)
        channel.basic_consume("gemini.requests", lambda *_: None)
        run = start(command, RABBITMQ_URL=url)
        assert run.code() == 69
        assert "somebody reads gemini.requests" in run.output()


def test_the_demo_answers_no_request_of_others(start: Start, rabbitmq_server: Server):
    """What waits on a server that is used as it is stays there."""
    with rabbitmq_server.fresh_vhost() as url:
        backend = Backend(url)
        backend.publish({"request_id": "of-others", "prompt": "A real one"})
        run = start("script/demo", RABBITMQ_URL=url)
        assert run.code() == 69
        assert "something waits in gemini.requests" in run.output()
        backend.wait_for_depth("gemini.requests", 1)


@pytest.mark.skipif((ROOT / ".env").exists(), reason="the keys of .env would be used")
def test_script_run_without_a_key_says_what_to_do(start: Start):
    """In one line, before anything is started."""
    run = start("script/run", OPENROUTER_API_KEYS="")
    assert run.code() == 78
    assert re.fullmatch(r"script/run: set OPENROUTER_API_KEYS .* script/run --fake\n", run.output())
