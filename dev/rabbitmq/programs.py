"""Where RabbitMQ's programs are; installs Debian's package when they are missing and that is allowed."""

import os
import shutil
import subprocess
from pathlib import Path

from dev import debian
from dev.ending import Failed

#: Debian's own scripts; those in /usr/sbin switch to the user `rabbitmq` and work on the system's server only.
DEBIAN = Path("/usr/lib/rabbitmq/bin")


def installed() -> Path | None:
    """The folder with a `rabbitmq-server` that any user can start; None when there is none."""
    candidates = [DEBIAN, Path("/opt/homebrew/sbin"), Path("/usr/local/sbin")]
    on_path = shutil.which("rabbitmq-server")
    if on_path is not None and not on_path.startswith(("/usr/sbin", "/sbin")):
        candidates.insert(0, Path(on_path).parent)
    return next((folder for folder in candidates if os.access(folder / "rabbitmq-server", os.X_OK)), None)


def install() -> None:
    """Return when a node can be started, be it in Docker. Raises Failed with a line that says what to do."""
    if installed() is None and debian.may_install():
        debian.install("rabbitmq-server")
    if installed() is None and not _docker_runs():
        raise Failed(
            "no RabbitMQ: set RABBITMQ_URL, or `apt-get install rabbitmq-server` (as root), or "
            "`brew install rabbitmq`, or start Docker"
        )


def _docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
