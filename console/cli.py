"""`gemini`: the command line of operators; what each command does stands with it.

Exit codes are those of `gateway.exits`. An error is one line on stderr, and says what to do next.
"""

import logging
import sys
from collections.abc import Sequence

import typer
from pika.exceptions import AMQPError

from console import ask, keys, run, status, usage
from console.dead.queues import gone
from console.doctor.command import doctor
from console.failed import failed
from console.health_command import health_command
from console.waits import waits
from gateway import exits
from gateway.errors import GatewayError
from gateway.settings import SettingsError

app = typer.Typer(
    name="gemini",
    help="See what the workers do, and do something about it. Settings are those of a worker: environment and .env.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback of rich shows the values of variables, and those may be anything.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (status.status, ask.ask, keys.keys, usage.usage, doctor, health_command, run.run):
    app.command(command.__name__.removesuffix("_command"))(command)
app.add_typer(waits, name="waits")
app.add_typer(failed, name="failed")


#: What ends a command, and the exit code; the first that matches. A connection's end needs our own words.
CODES: tuple[tuple[type[Exception], int], ...] = (
    (SettingsError, exits.SETTINGS),
    (GatewayError, exits.UNAVAILABLE),
    (AMQPError, exits.UNAVAILABLE),
)

#: What typer ends with when a command was typed in a way that cannot be meant.
_TYPER_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of the process."""
    logging.getLogger().addHandler(logging.NullHandler())  # what the worker would log, a command says itself
    try:
        app(args=arguments, prog_name="gemini")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else exits.FAULT
        return exits.USAGE if code == _TYPER_USAGE else code
    except Exception as error:
        code = next((code for kind, code in CODES if isinstance(error, kind)), exits.FAULT)
        if code == exits.FAULT:
            raise
        print(gone(error) if isinstance(error, AMQPError) else error, file=sys.stderr)
        return code
    return 0
