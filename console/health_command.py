"""`gemini health` with the options of every command; a probe comes without them, and by a shorter way."""

import typer

from console.health import health
from console.screen import Json


def health_command(*, json_wanted: Json = False) -> None:
    """Whether the worker processes of this machine, or container, live: for its probes.

    It looks at what they write beside STATE_PATH, and asks neither RabbitMQ nor the store. Exit code 1 when one hangs,
    or none is there.
    """
    raise typer.Exit(health(json_wanted=json_wanted))
