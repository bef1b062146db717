"""`gemini run`: a worker until Ctrl-C; in a checkout what `script/run` does."""

import os
from pathlib import Path
from typing import Annotated

import typer

from console.screen import give_up
from gateway import exits

#: Beside the packages, in a checkout.
SCRIPT = Path(__file__).resolve().parents[1] / "script" / "run"

#: What the Procfile starts.
WORKER = (
    "exec dramatiq-gevent actors --processes ${WORKER_PROCESSES:-2} --threads ${WORKER_THREADS:-50} "
    "--worker-shutdown-timeout 25000 --worker-fork-timeout 5000 --skip-logging"
)


def run(
    *, fake: Annotated[bool, typer.Option("--fake", help="With a stand-in for OpenRouter: nothing is paid.")] = False
) -> None:
    """A worker until Ctrl-C. In a checkout with a RabbitMQ of its own, where RABBITMQ_URL names none."""
    if SCRIPT.exists():
        os.execv(SCRIPT, [str(SCRIPT), *(["--fake"] if fake else [])])  # noqa: S606 - it is ours
    if fake:
        give_up("The stand-in is part of a checkout: see the README for a worker with docker compose.", exits.USAGE)
    os.execv("/bin/sh", ["sh", "-c", WORKER])  # noqa: S606 - the Procfile's own line
