"""Starts what a worker needs, and the worker, and stays until it is told to end; see script/run."""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from dotenv import dotenv_values
from pika.exceptions import AMQPError

from dev import ending
from dev.ending import Failed, Stopped
from dev.guide import guide
from dev.launcher import ROOT, Process
from dev.rabbitmq_url import nobody_reads, usable
from dev.stack import Stack
from dev.waiting import TooLate, wait_until
from fake_openrouter.client import running
from gateway import exits
from gateway.settings import Settings, SettingsError, load_settings

START_TIMEOUT_S = 60.0

KEYS = ("sk-or-v1-fake-key-0001", "sk-or-v1-fake-key-0002", "sk-or-v1-fake-key-0003")

#: What would lead away from the stand-in, or take its answers to where yours are: these are not used with --fake.
REAL = frozenset({"OPENROUTER_API_KEY", "GEMINI_API_KEYS", "HTTP_PROXY", "REDIS_URL", "SENTRY_DSN"})


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/run")
    parser.add_argument("--fake", action="store_true", help="use a stand-in for OpenRouter: nothing is paid")
    options = parser.parse_args()
    try:
        return ending.run("script/run", lambda cleanup: run(cleanup, fake=options.fake))
    except Stopped:
        say("Stopped.")
        return 0
    except SettingsError as error:
        print(error, file=sys.stderr)
        return exits.SETTINGS


def run(cleanup: ExitStack, *, fake: bool) -> int:
    """Run until Stopped. Raises Failed when the worker ends by itself; `cleanup` ends whatever was started."""
    settings = load_settings(need_keys=False)
    if not (fake or settings.keys):
        raise Failed("set OPENROUTER_API_KEYS (in the environment or .env), or use script/run --fake", exits.SETTINGS)
    url = usable(_chosen(settings), cleanup)
    environment = given() | {"RABBITMQ_URL": url}
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="gemini-run-")))
    if fake:
        nobody_reads(url, settings.request_queue)  # the stand-in would answer with made-up text
        # In a folder without .env, which the processes would read.
        ours = of_the_stand_in(folder, cleanup)
        stack = Stack(with_the_stand_in(environment, ours), folder, cwd=folder)
    else:
        print("Provider   the real one, with your keys: calls are paid")
        ours = {}
        stack = Stack(environment, folder)
    cleanup.callback(stop, stack)
    worker = start(stack, settings.request_queue)
    print(guide(url, settings, ours))
    wait_until(lambda: show(worker), timeout_s=math.inf)
    raise _ended(worker)


def start(stack: Stack, queue: str) -> Process:
    """Return when every process of the worker consumes. Raises Failed and TooLate, with their last words."""
    print("Processes  those of the Procfile: ", end="", flush=True)
    processes = stack.environment.get("WORKER_PROCESSES") or "2"
    # One that is no number is the worker's to complain about. Others may consume there already.
    wanted = (int(processes) if processes.isdecimal() else 1) + stack.consumers(queue)
    worker = stack.start("worker")

    def ready() -> bool:
        if worker.ended:
            raise _ended(worker)
        with suppress(AMQPError, OSError):
            return stack.consumers(queue) >= wanted
        return False

    try:
        wait_until(ready, timeout_s=START_TIMEOUT_S, pause_s=0.05, what="a worker that is ready")
    except TooLate as error:
        raise TooLate(f"{error}. The last lines of the log:\n\n{worker.last_words()}") from None
    print("the worker is ready")
    return worker


def show(worker: Process) -> bool:
    """Print what it has said since the last time; whether it has ended."""
    ended = worker.ended
    for line in worker.new_lines():
        say(line)
    return ended


def stop(stack: Stack) -> None:
    if not all(process.ended for process in stack.processes):
        say("\nStopping: calls that run may take 25 s to end.")
    stack.stop()


def say(text: str) -> None:
    """Print it where somebody reads it still: a pipe may have ended, the worker goes on."""
    with suppress(BrokenPipeError):
        print(text)


def _ended(worker: Process) -> Failed:
    code = worker.wait()
    text = f"the worker has ended by itself with {code}. The last lines of the log:\n\n{worker.last_words()}"
    return Failed(text, code if code > 0 else 1)


def _chosen(settings: Settings) -> str | None:
    return settings.rabbitmq_url.get_secret_value() if "rabbitmq_url" in settings.model_fields_set else None


def given() -> dict[str, str]:
    """The settings of the environment and .env, as a process sees them: an empty value counts as not set."""
    of_file = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value}
    return of_file | {name: value for name, value in os.environ.items() if value or name not in of_file}


def of_the_stand_in(folder: Path, cleanup: ExitStack) -> dict[str, str]:
    """The settings for a stand-in that runs until `cleanup`, and for a state of its own."""
    stand_in = cleanup.enter_context(running(keys=KEYS))
    print(f"Provider   a stand-in for OpenRouter at {stand_in.base_url}: nothing is paid")
    return {
        "OPENROUTER_API_KEYS": ",".join(KEYS),
        "OPENROUTER_BASE_URL": f"{stand_in.base_url}/api/v1",
        "STATE_PATH": str(folder / "worker.sqlite3"),
    }


def with_the_stand_in(settings: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """These settings, but for those that are ours, and for what leads away from the stand-in."""
    # Names of settings may be written in lower case as well.
    return {name: value for name, value in settings.items() if name.upper() not in {*REAL, *ours}} | dict(ours)


if __name__ == "__main__":
    sys.exit(main())
