"""A private RabbitMQ server: own data, own cookie, free ports of the loopback interface, and no trace of it after."""

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

#: A server needs about 8 s to start on two slow cores.
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0

#: Where a server's ports are looked for: the first one of each block says that the other three are taken.
BLOCKS = range(20_000, 32_000, 4)

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
# The default of 50 MB, in absolute terms; the demo and the tests need little.
disk_free_limit.absolute = 50MB
log.file.level = warning
"""


class NodeFailed(Exception):
    """The server did not start; the text ends with its last words."""


class Node:
    """The server whose data, log and process ids are below `folder`; at most one runs there.

    It keeps its port over `stop(keep=True)` or `kill()` and a second `start()`.
    """

    def __init__(self, folder: Path, *, plugins: Sequence[str] = (), config: str = "") -> None:
        self.folder = folder
        self._plugins = plugins
        self._config = config
        self._facts_file = folder / "node.json"

    @property
    def facts(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._facts_file.read_text())
        except FileNotFoundError:
            return {}
        return found

    @property
    def port(self) -> int:
        return int(self.facts["port"])

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether RabbitMQ itself runs: its name server, the first of the processes, outlives a start that failed."""
        return any(_alive(*process) for process in self.facts.get("processes", [])[1:])

    def start(self, binaries: Path | None) -> None:
        """Return when RabbitMQ answers; at once when it runs already. Without `binaries` it runs in Docker."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = self.facts.get("ports") or _free_ports(3)
        facts: dict[str, Any] = {"port": ports[0], "ports": ports, "processes": []}
        self._write(facts)
        if binaries is None:
            self._start_container(ports[0])
        else:
            self._start_processes(binaries, facts)
        self._wait_until_it_answers()

    def stop(self, *, keep: bool) -> None:
        """Stop what `start()` has started, and remove its data unless it is to be kept. Idempotent."""
        # Nobody will miss data that is removed: its farewell would take ten seconds.
        self._end(signal.SIGTERM if keep else signal.SIGKILL, STOP_TIMEOUT_S)
        if not keep:
            self._remove_container()
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.folder.parent.name == ".rabbitmq" and not any(self.folder.parent.iterdir()):
                self.folder.parent.rmdir()

    def kill(self) -> None:
        """End the server as a crash would, without a chance to tidy up."""
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    @contextmanager
    def vhost(self, name: str) -> Iterator[str]:
        """The URL of a fresh virtual host of this running server, deleted afterwards."""
        self._control("add_vhost", name)
        self._control("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        try:
            yield f"{self.url}/{name}"
        finally:
            self._control("delete_vhost", name)

    def _control(self, *arguments: str) -> None:
        if self.facts.get("container"):
            done = _docker("exec", self._container, "rabbitmqctl", *arguments)
        else:
            command = [str(Path(self.facts["binaries"]) / "rabbitmqctl"), *arguments]
            environment = self._environment(self.facts["ports"])
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NodeFailed(f"rabbitmqctl {arguments[0]} failed: {done.stderr.strip()}")

    def _start_processes(self, binaries: Path, facts: dict[str, Any]) -> None:
        facts["binaries"] = str(binaries)
        environment = self._environment(facts["ports"])
        (self.folder / "rabbitmq.conf").write_text(CONFIG.format(port=facts["port"]) + self._config)
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)
        # Erlang would start its name server by itself and leave it behind; this one is ours to stop.
        epmd = ["epmd", "-address", "127.0.0.1", "-port", environment["ERL_EPMD_PORT"]]
        for command in (epmd, [str(binaries / "rabbitmq-server")]):
            process = self._detach(command, environment)
            facts["processes"].append([process.pid, _birth(process.pid)])
            self._write(facts)

    def _detach(self, command: list[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / "output.log").open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for the command that uses the server.
            return subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self, ports: list[int]) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return ours | {
            "HOME": str(self.folder),  # where Erlang looks for its cookie
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin",
            "ERL_EPMD_PORT": str(ports[1]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(ports[2]),
            "RABBITMQ_NODENAME": f"gemini-{ports[0]}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "config"),
            "RABBITMQ_PID_FILE": str(self.folder / "rabbitmq.pid"),
        }

    def _start_container(self, port: int) -> None:
        if _docker("start", self._container).returncode != 0:
            publish = f"127.0.0.1:{port}:5672"
            made = _docker("run", "--detach", "--name", self._container, "--publish", publish, "rabbitmq:3.13")
            if made.returncode != 0:
                raise NodeFailed(f"docker run failed: {made.stderr.strip()}")
        self._write(self.facts | {"container": True})

    @property
    def _container(self) -> str:
        return f"gemini-rabbitmq-{self.port}"

    def _remove_container(self) -> None:
        if self.facts.get("container"):
            _docker("rm", "--force", "--volumes", self._container)

    def _wait_until_it_answers(self) -> None:
        def answered_or_ended() -> bool:
            return answers("127.0.0.1", self.port) or not (self.running or self.facts.get("container"))

        if not wait_until(answered_or_ended, START_TIMEOUT_S) or not answers("127.0.0.1", self.port):
            raise NodeFailed(f"RabbitMQ did not start:\n{self._last_words()}")

    def _last_words(self, lines: int = 15) -> str:
        try:
            return "\n".join((self.folder / "output.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _end(self, signum: int, timeout_s: float) -> None:
        if self.facts.get("container"):
            _docker("kill" if signum == signal.SIGKILL else "stop", self._container)
        # The name server goes last: a server that stops takes its name off the list.
        for pid, birth in reversed(self.facts.get("processes", [])):
            _end_group(pid, birth, signum, timeout_s)

    def _write(self, facts: dict[str, Any]) -> None:
        self._facts_file.write_text(json.dumps(facts))


def answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether an AMQP 0-9-1 server greets us there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"  # a method frame: connection.start
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `condition` came true in `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _end_group(pid: int, birth: str, signum: int, timeout_s: float) -> None:
    """Signal the process and its children, and kill what is left of them after `timeout_s` seconds."""
    if not _alive(pid, birth):
        return
    for number, patience_s in ((signum, timeout_s), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            return
        if wait_until(lambda: not _group_exists(pid), patience_s):
            return


def _group_exists(pid: int) -> bool:
    _reap(pid)
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _alive(pid: int, birth: str) -> bool:
    """Whether this very process runs still: the number alone may be another's by now."""
    _reap(pid)
    return _birth(pid) == birth


def _reap(pid: int) -> None:
    """Take note of a child's end, so that it does not stay in the process table; not ours to do for other processes."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _birth(pid: int) -> str:
    """When the process started, in whatever form the system says it; empty when there is none."""
    try:
        # The name in parentheses may hold anything; the 20th field after it is the start in clock ticks since boot.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def _free_ports(count: int) -> list[int]:
    """Up to three ports in a row that nobody listens on, and that no other process of ours takes while this one runs.

    They lie below those that systems give to outgoing connections: while the server is down, a client that tries to
    reach it could be given its port, and the server would not come back.
    """
    for reserved in random.sample(BLOCKS, len(BLOCKS)):
        ports = [reserved + number for number in range(1, count + 1)]
        with ExitStack() as held:
            try:
                reservation = _bound(held, reserved)
                for port in ports:
                    _bound(held, port)
            except OSError:
                continue
            reservation.listen()
            os.dup(reservation.fileno())  # open until the end of this process: nobody else gets this block
            return ports
    raise NodeFailed(f"no free ports between {BLOCKS.start} and {BLOCKS.stop}")


def _bound(held: ExitStack, port: int) -> socket.socket:
    one = held.enter_context(socket.socket())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: old connections do not count
    one.bind(("127.0.0.1", port))
    return one
