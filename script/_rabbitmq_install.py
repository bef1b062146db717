"""Where RabbitMQ's programs are; installs Debian's package when they are missing and that is allowed."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from _debian import NotInstalled, install

#: Debian's own scripts; those in /usr/sbin switch to the user `rabbitmq` and work on the system's server only.
DEBIAN = Path("/usr/lib/rabbitmq/bin")


class NotAvailable(Exception):
    """RabbitMQ cannot be had here; the text is one line that says how to get it."""


def server_folder(say: Callable[[str], None]) -> Path | None:
    """The folder with `rabbitmq-server`, None when it is to be run in Docker. Raises NotAvailable."""
    found = installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("RabbitMQ is not installed: installing Debian's package rabbitmq-server (once, a minute or two)")
        try:
            install("rabbitmq-server")
        except NotInstalled as error:
            raise NotAvailable(f"{error}; or set RABBITMQ_URL, or start Docker") from None
        found = installed()
    if found is not None:
        return found
    if _docker_runs():
        return None
    raise NotAvailable(
        "No RabbitMQ: set RABBITMQ_URL, or `apt-get install rabbitmq-server` (as root), or `brew install rabbitmq`, "
        "or start Docker"
    )


def installed() -> Path | None:
    """The folder with a `rabbitmq-server` that any user can start; None when there is none."""
    candidates = [DEBIAN, Path("/opt/homebrew/sbin"), Path("/usr/local/sbin")]
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None and not on_path.startswith(("/usr/sbin", "/sbin")):
        candidates.insert(0, Path(on_path).parent)
    return next((folder for folder in candidates if os.access(folder / "rabbitmq-server", os.X_OK)), None)


def _docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
