"""Installs a Debian package that a script needs and the machine does not have.

python3 script/_debian.py PROGRAM PACKAGE    does nothing when PROGRAM is there
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")


class NotInstalled(Exception):
    """The package is not installed; the text says why."""


def main(program: str, package: str) -> int:
    if shutil.which(program):
        return 0
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"{program} is not installed (Debian: apt-get install {package}): its tests are skipped", file=sys.stderr)
        return 0
    print(f"{program} is not installed: installing Debian's package {package}", file=sys.stderr)
    try:
        install(package)
    except NotInstalled as error:
        print(error, file=sys.stderr)
        return 69  # EX_UNAVAILABLE
    return 0


def install(package: str) -> None:
    """Install a Debian package; a server in it is not started. Raises NotInstalled."""
    apt = ["apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for arguments in (["update"], ["install", "--no-install-recommends", package]):
            # Standard output may be somebody's pipe for the URL: progress goes to standard error.
            done = subprocess.run([*apt, *arguments], env=environment, stdout=2, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise NotInstalled(f"apt-get {arguments[0]} failed (see above)")
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", "--quiet", package], check=False)


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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
