"""The examples in other languages, where their interpreters and packages are installed: a real worker answers them.

`npm install` and `composer install` in examples/ put the packages there; Debian's php-amqplib does as well.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dev.launcher import ROOT
from dev.stack import Stack
from fake_openrouter.client import FakeClient
from tests.system.conftest import MakeStack

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]

EXAMPLES = ROOT / "examples"

#: Where Debian puts the packages of PHP.
DEBIAN = Path("/usr/share/php/PhpAmqpLib")


def node() -> tuple[list[str], dict[str, str]]:
    """The command and its environment; skips where it cannot run."""
    _needs("node")
    if not (EXAMPLES / "node" / "node_modules" / "amqplib").exists():
        pytest.skip("no amqplib: npm install in examples/node")
    return ["node", str(EXAMPLES / "node" / "ask.mjs")], {}


def php() -> tuple[list[str], dict[str, str]]:
    """The command and its environment; skips where it cannot run."""
    _needs("php")
    program = ["php", str(EXAMPLES / "php" / "ask.php")]
    if (EXAMPLES / "php" / "vendor").exists():
        return program, {}
    if (DEBIAN / "autoload.php").exists():
        return program, {"COMPOSER_VENDOR_DIR": str(DEBIAN)}
    pytest.skip("no php-amqplib: composer install in examples/php")


def _needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.mark.parametrize("example", [node, php])
def test_an_example_asks_and_gets_its_answer_and_its_error(example, make_stack: MakeStack):
    """It prints the answer; an error of the worker is its code and sentence; without a worker it says what to do."""
    command, environment = example()
    stack, fake = make_stack()
    without = run(command, environment, stack, "Anybody there?")
    assert without.returncode == 1
    assert "gemini.requests does not exist: start a worker" in without.stderr
    stack.start_worker()
    answered = run(command, environment, stack, "What is a message queue?")
    assert (answered.returncode, answered.stdout.strip() != "") == (0, True), answered.stderr
    assert calls_for(fake, "What is a message queue?") == 1
    refused = run(command, environment, stack, " ")
    assert refused.returncode == 1
    assert "invalid_request: prompt" in refused.stderr


def run(command: list[str], environment: dict[str, str], stack: Stack, prompt: str) -> subprocess.CompletedProcess[str]:
    seen = {"PATH": os.environ["PATH"], "RABBITMQ_URL": stack.url, **environment}
    return subprocess.run([*command, prompt], env=seen, capture_output=True, text=True, timeout=90, check=False)


def calls_for(fake: FakeClient, prompt: str) -> int:
    return sum(prompt in str(call) for call in fake.calls())
