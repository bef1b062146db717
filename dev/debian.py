"""Installs a Debian package that the machine does not have, where that is allowed.

python3 -m dev.debian PROGRAM PACKAGE    does nothing when PROGRAM is there
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.ending import Failed

POLICY = Path("/usr/sbin/policy-rc.d")


def main(program: str, package: str) -> int:
    if shutil.which(program):
        return 0
    if not may_install():
        print(f"{program} is not installed (Debian: apt-get install {package}): its tests are skipped", file=sys.stderr)
        return 0
    try:
        install(package)
    except Failed as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


def may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str) -> None:
    """Install a package; a server in it is not started. Raises Failed."""
    print(f"Installing Debian's package {package} (once, a minute or two)", file=sys.stderr, flush=True)
    apt = ["apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for arguments in (["update"], ["install", "--no-install-recommends", package]):
            # Standard output may be somebody's pipe for a URL: progress goes to standard error.
            done = subprocess.run([*apt, *arguments], env=environment, stdout=2, stdin=subprocess.DEVNULL, check=False)
            if done.returncode != 0:
                raise Failed(f"{package} cannot be installed: apt-get {arguments[0]} failed (see above)")
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
