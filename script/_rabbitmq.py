"""A RabbitMQ for the demo and the tests that is ours alone; only Python's standard library is needed.

    script/rabbitmq run -- COMMAND    run COMMAND with RABBITMQ_URL set, and clean up after it
    script/rabbitmq start             start a private server and print its URL
    script/rabbitmq stop              stop it; with --keep its data and its port stay for the next start
    script/rabbitmq kill              stop it at once, as a crash would; data and port stay
    script/rabbitmq install           make sure that `run` will work, and install what is missing
    script/rabbitmq url               print the URL of the server that `start` has started

`run` uses the server that `start` has started, else that of RABBITMQ_URL, else one on localhost:5672, through a virtual
host that it creates and deletes again: the queues of the worker have fixed names. Where it may not create one, or no
server answers, it starts a private server on free ports of the loopback interface, with its data below `.rabbitmq/`. A
server that this script did not start is neither stopped nor changed beyond that virtual host.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from _rabbitmq_found import own_vhost
from _rabbitmq_install import NotAvailable, installed, server_folder
from _rabbitmq_node import Node, NodeFailed

BASE = Path(__file__).resolve().parent.parent / ".rabbitmq"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/rabbitmq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "start", "stop", "kill", "install", "url"])
    parser.add_argument("--folder", type=Path, default=BASE / "server", help="where a started server keeps its data")
    parser.add_argument("--keep", action="store_true", help="stop: keep data and port for the next start")
    parser.add_argument("command", nargs="*", help="run: the command, after --")
    options = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _leave)  # so that `finally` cleans up
    try:
        return _do(options)
    except (NotAvailable, NodeFailed) as error:
        say(str(error))
        return 69  # EX_UNAVAILABLE
    except KeyboardInterrupt:
        return 130


def _do(options: argparse.Namespace) -> int:
    node = Node(options.folder.resolve())
    match options.action:
        case "run":
            return run(options.command)
        case "start":
            start(node)
            print(node.url)
        case "stop":
            node.stop(keep=options.keep)
        case "kill":
            node.kill()
        case "install":
            install()
        case "url":
            if not node.running:
                raise NotAvailable(f"No server runs from {node.folder}: script/rabbitmq start")
            print(node.url)
    return 0


def start(node: Node) -> None:
    """Leave a running server behind, or none at all."""
    try:
        node.start(server_folder(say))
    except BaseException:
        node.kill()
        raise


def install() -> None:
    """Return when a server that is ours can be had: one that is there will do, a missing one is installed."""
    if installed() is None:
        with own_vhost(f"gemini-{secrets.token_hex(4)}") as url:
            if url is None:
                server_folder(say)


def run(command: list[str]) -> int:
    """The exit code of `command`, which is stopped first and cleaned up after on SIGTERM and SIGHUP."""
    if not command:
        raise NotAvailable("What shall be run? script/rabbitmq run -- COMMAND")
    with _server() as url:
        return _supervise(command, {**os.environ, "RABBITMQ_URL": url})


@contextmanager
def _server() -> Iterator[str]:
    """The URL of a server, or a virtual host of one, that is ours alone; gone afterwards."""
    name = f"gemini-{secrets.token_hex(4)}"
    with ExitStack() as cleanup:
        try:
            yield _url(name, cleanup)
        finally:
            _clean_up_undisturbed()


def _url(name: str, cleanup: ExitStack) -> str:
    ours = Node(BASE / "server")
    if ours.running:
        say(f"RabbitMQ: own virtual host {name} on the server that script/rabbitmq has started")
        return cleanup.enter_context(ours.vhost(name))
    found = cleanup.enter_context(own_vhost(name))
    if found is not None:
        say(f"RabbitMQ: own virtual host {name} on the server found at {found.rpartition('@')[2].partition('/')[0]}")
        return found
    if os.environ.get("RABBITMQ_URL"):
        say("RabbitMQ: that of RABBITMQ_URL does not answer, or lets us make no virtual host of our own")
    url = cleanup.enter_context(private_server(name))
    say(f"RabbitMQ: private server on port {url.rpartition(':')[2]}")
    return url


@contextmanager
def private_server(name: str) -> Iterator[str]:
    """The URL of a server of our own on a free port; gone afterwards, with all that is in it.

    Raises NotAvailable and NodeFailed.
    """
    say("RabbitMQ: starting a private server")
    node = Node(BASE / name)
    try:
        node.start(server_folder(say))
        yield node.url
    finally:
        node.stop(keep=False)


def _clean_up_undisturbed() -> None:
    """From here on a second Ctrl-C, pressed by somebody in a hurry, leaves no server behind."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def _supervise(command: list[str], environment: dict[str, str]) -> int:
    # A Ctrl-C reaches the command by itself, as it is in the same group of the terminal; we wait until it is done.
    child = subprocess.Popen(command, env=environment)
    while True:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            continue
        except SystemExit:
            child.terminate()
            continue
        return code if code >= 0 else 128 - code


def _leave(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
