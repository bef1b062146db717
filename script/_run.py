"""Starts what a worker needs, and the worker, and stays until it is told to end; see script/run."""

import argparse
import io
import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from _rabbitmq import BASE, private_server
from _rabbitmq_install import NotAvailable
from _rabbitmq_node import Node, NodeFailed
from _run_guide import guide
from _stack import ROOT, Failed, Stack, consumers, opens
from dotenv import dotenv_values

from fake_openrouter.client import running
from gateway import exits
from gateway.settings import Settings, SettingsError, load_settings

KEYS = ("sk-or-v1-fake-key-0001", "sk-or-v1-fake-key-0002", "sk-or-v1-fake-key-0003")

#: What would lead away from the stand-in, or take its answers to where yours are: these are not used with --fake.
REAL = frozenset({"OPENROUTER_API_KEY", "GEMINI_API_KEYS", "HTTP_PROXY", "REDIS_URL", "SENTRY_DSN"})


class Stopped(BaseException):
    """Somebody wants it to end."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/run")
    parser.add_argument("--fake", action="store_true", help="use a stand-in for OpenRouter: nothing is paid")
    options = parser.parse_args()
    os.chdir(ROOT)
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # we say ourselves that RabbitMQ does not answer
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _stop)
    try:
        with ExitStack() as cleanup:
            try:
                run(fake=options.fake, cleanup=cleanup)
            finally:
                _clean_up_undisturbed()
    except Stopped:
        print("Stopped.")
        return 0
    except (NotAvailable, NodeFailed) as error:
        print(error, file=sys.stderr)
        return exits.UNAVAILABLE
    except SettingsError as error:
        print(error, file=sys.stderr)
        return exits.SETTINGS
    except Failed as error:
        print(f"script/run: {error}", file=sys.stderr)
        return error.code
    return 0


def run(*, fake: bool, cleanup: ExitStack) -> None:
    """Run until Stopped. Raises Failed when a process ends by itself; `cleanup` ends whatever was started."""
    settings = load_settings(need_keys=False)
    if not (fake or settings.keys):
        raise Failed("set OPENROUTER_API_KEYS (in the environment or .env), or use script/run --fake", exits.SETTINGS)
    url, where = rabbitmq(settings, cleanup)
    print(f"RabbitMQ   {where}")
    environment, cwd = given() | {"RABBITMQ_URL": url}, ROOT
    if fake:
        if consumers(url, settings.request_queue):
            raise Failed(
                f"somebody else takes requests from {settings.request_queue} there: the stand-in would answer some of "
                "them with made-up text. Stop that one, or set RABBITMQ_URL to another server",
                exits.UNAVAILABLE,
            )
        # In a folder without .env, which the processes would read.
        cwd = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="gemini-run-")))
        environment = with_the_stand_in(environment, cwd, cleanup)
    else:
        print("Provider   the real one, with your keys: calls are paid")
    stack = Stack(environment, cwd=cwd)
    cleanup.callback(stack.stop)
    print("Processes  those of the Procfile: ", end="", flush=True)
    stack.start(settings.request_queue)
    print("the worker is ready")
    print(guide(url, settings))
    stack.follow(print)
    stack.wait()


def rabbitmq(settings: Settings, cleanup: ExitStack) -> tuple[str, str]:
    """The URL of a RabbitMQ that takes us, and what to say about it: one that is there, else a private one."""
    url = settings.rabbitmq_url.get_secret_value()
    chosen = "rabbitmq_url" in settings.model_fields_set
    if chosen and opens(url):
        return url, f"{_shown(url)}, as it is"
    if chosen:
        print(f"RabbitMQ   {_shown(url)} (RABBITMQ_URL) does not answer, or does not let us in")
    started = Node(BASE / "server")
    if started.running:
        return started.url, f"{started.url}, which script/rabbitmq has started"
    if not chosen and opens(url):
        return url, f"{url}, as it is"
    url = cleanup.enter_context(private_server(f"gemini-{secrets.token_hex(4)}"))
    return url, f"{url}, a private one: it ends with this command, with all that is in it"


def _shown(url: str) -> str:
    """Where a URL leads, without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def given() -> dict[str, str]:
    """The settings of the environment and .env, as a process sees them: an empty value counts as not set."""
    of_file = {name: value for name, value in dotenv_values(ROOT / ".env").items() if value}
    return of_file | {name: value for name, value in os.environ.items() if value or name not in of_file}


def with_the_stand_in(settings: Mapping[str, str], folder: Path, cleanup: ExitStack) -> dict[str, str]:
    """These settings, but with a stand-in that runs until `cleanup`, and with a state of its own."""
    stand_in = cleanup.enter_context(running(keys=KEYS))
    print(f"Provider   a stand-in for OpenRouter at {stand_in.base_url}: nothing is paid")
    other = {
        "OPENROUTER_API_KEYS": ",".join(KEYS),
        "OPENROUTER_BASE_URL": f"{stand_in.base_url}/api/v1",
        "STATE_PATH": str(folder / "worker.sqlite3"),
    }
    # Names of settings may be written in lower case as well.
    return {name: value for name, value in settings.items() if name.upper() not in {*REAL, *other}} | other


def _clean_up_undisturbed() -> None:
    """From here on a second Ctrl-C, pressed by somebody in a hurry, leaves nothing behind."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    _clean_up_undisturbed()
    print("\nStopping: calls that run may take 25 s to end.")
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
