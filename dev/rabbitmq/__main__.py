"""A RabbitMQ that is ours alone; only Python's standard library is needed.

    script/rabbitmq start             start a private server and print its URL; for the other scripts:
                                      export RABBITMQ_URL=$(script/rabbitmq start)
    script/rabbitmq stop              stop it; with --keep its data and its port stay for the next start
    script/rabbitmq kill              stop it at once, as a crash would; data and port stay
    script/rabbitmq url               print the URL of the server that `start` has started
    script/rabbitmq run -- COMMAND    run COMMAND with RABBITMQ_URL set, and clean up after it
    script/rabbitmq install           make sure that `start` will work, and install what is missing

`run` leaves a RABBITMQ_URL that is set as it is. Else it starts a server for the command on free ports of the loopback
interface, with its data below `.rabbitmq/`, and removes it afterwards.
"""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from dev import ending
from dev.ending import Failed, Stopped
from dev.launcher import ROOT
from dev.rabbitmq.node import Node
from dev.rabbitmq.private import private_node
from dev.rabbitmq.programs import install


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/rabbitmq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["start", "stop", "kill", "url", "run", "install"])
    default = ROOT / ".rabbitmq" / "server"
    parser.add_argument("--folder", type=Path, default=default, help="where a started server keeps its data")
    parser.add_argument("--keep", action="store_true", help="stop: keep data and port for the next start")
    parser.add_argument("command", nargs="*", help="run: the command, after --")
    options = parser.parse_args()
    try:
        return ending.run("script/rabbitmq", lambda cleanup: _do(options, cleanup))
    except Stopped as stopped:
        return stopped.code


def _do(options: argparse.Namespace, cleanup: ExitStack) -> int:
    if options.action == "run":
        return _run(options.command, cleanup)
    if options.action == "install":
        install()
        return 0
    if options.action == "start":
        install()
    node = Node(options.folder.resolve())
    if options.action == "stop":
        node.stop(keep=options.keep)
    elif options.action == "kill":
        node.kill()
    elif options.action == "start":
        _start(node)
    elif not node.running:
        raise Failed(f"no server runs from {node.folder}: script/rabbitmq start")
    if options.action in {"start", "url"}:
        print(node.url)
    return 0


def _start(node: Node) -> None:
    """Leave a running server behind, or none at all."""
    try:
        node.start()
    except BaseException:
        node.kill()
        raise


def _run(command: list[str], cleanup: ExitStack) -> int:
    """The exit code of `command`, which is stopped first and cleaned up after on a signal."""
    if not command:
        raise Failed("what shall be run? script/rabbitmq run -- COMMAND")
    url = os.environ.get("RABBITMQ_URL") or cleanup.enter_context(private_node()).url
    child = subprocess.Popen(command, env={**os.environ, "RABBITMQ_URL": url})
    try:
        code = child.wait()
    except Stopped as stopped:
        if stopped.signum != signal.SIGINT:  # which has reached it already: it is in the same group of the terminal
            child.terminate()
        code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
