"""`gemini run`: a worker until Ctrl-C; in a checkout what `script/run` does."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from dotenv import dotenv_values

from console.screen import give_up
from gateway import exits
from gateway.settings.quotes import unquoted

#: Beside the packages, in a checkout.
SCRIPT = Path(__file__).resolve().parents[1] / "script" / "run"

#: Settings that name a file.
PATHS = frozenset({"STATE_PATH", "RABBITMQ_CA_FILE", "REDIS_CA_FILE"})

#: What the Procfile starts.
WORKER = (
    "exec dramatiq-gevent actors --processes ${WORKER_PROCESSES:-2} --threads ${WORKER_THREADS:-50} "
    "--worker-shutdown-timeout 25000 --worker-fork-timeout 5000 --skip-logging"
)


def run(
    *, fake: Annotated[bool, typer.Option("--fake", help="With a stand-in for OpenRouter: nothing is paid.")] = False
) -> None:
    """A worker until Ctrl-C. In a checkout with a RabbitMQ of its own, where RABBITMQ_URL names none.

    Settings are those of the environment and of .env in the folder where it is typed.
    """
    if SCRIPT.exists():  # it changes to the checkout
        arguments = [str(SCRIPT), *(["--fake"] if fake else [])]
        os.execve(SCRIPT, arguments, _with_the_file(os.environ))  # noqa: S606 - it is ours
    if fake:
        give_up("The stand-in is part of a checkout: see the README for a worker with docker compose.", exits.USAGE)
    os.execv("/bin/sh", ["sh", "-c", WORKER])  # noqa: S606 - the Procfile's own line


def _with_the_file(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, and what only `.env` of this folder sets; paths in it begin here."""
    found = {name: unquoted(value) for name, value in dotenv_values(".env").items() if value and name.isupper()}
    found |= {name: str(Path(found[name]).resolve()) for name in PATHS & found.keys()}
    return {**environment, **{name: value for name, value in found.items() if not environment.get(name)}}
