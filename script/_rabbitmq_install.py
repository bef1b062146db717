"""Where RabbitMQ's programs are; installs Debian's package when they are missing and that is allowed."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Debian's own scripts; those in /usr/sbin switch to the user `rabbitmq` and work on the system's server only.
DEBIAN = Path("/usr/lib/rabbitmq/bin")
POLICY = Path("/usr/sbin/policy-rc.d")


class NotAvailable(Exception):
    """RabbitMQ cannot be had here; the text is one line that says how to get it."""


def server_folder(say: Callable[[str], None]) -> Path | None:
    """The folder with `rabbitmq-server`, None when it is to be run in Docker. Raises NotAvailable."""
    found = installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("RabbitMQ is not installed: installing Debian's package rabbitmq-server (once, a minute or two)")
        _install()
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


def _install() -> None:
    apt = ["apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for arguments in (["update"], ["install", "--no-install-recommends", "rabbitmq-server"]):
            # Standard output may be somebody's pipe for the URL: progress goes to standard error.
            done = subprocess.run([*apt, *arguments], env=environment, stdout=2, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise NotAvailable(f"apt-get {arguments[0]} failed (see above); or set RABBITMQ_URL, or start Docker")
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", "--quiet", "rabbitmq-server"], check=False)


@contextmanager
def _no_services() -> Iterator[None]:
    """The package does not start a server of its own; a policy that is there already is left alone."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _docker_runs() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
