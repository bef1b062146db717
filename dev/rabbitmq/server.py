"""A RabbitMQ that does what it is told: virtual hosts in milliseconds, and ways to hurt it."""

import base64
import http.client
import json
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from dev.ending import Failed


class Server:
    """Any server, by whomever it was started.

    `url` has an administrator's name and password and no virtual host; `management_url` is that of its HTTP API.
    `control` is the command line of its `rabbitmqctl`, which runs in `environment`; None is ours.
    """

    def __init__(
        self, url: str, management_url: str, control: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.url = url
        self.management_url = management_url
        self._control = control
        self._environment = environment

    @contextmanager
    def fresh_vhost(self) -> Iterator[str]:
        """The URL of a virtual host of its own, which is deleted with all that is in it."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        url = f"{self.url}/{name}"
        self.api("PUT", f"vhosts/{name}")
        self.permit(url, user=self._user[0])
        try:
            yield url
        finally:
            self.api("DELETE", f"vhosts/{name}")

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Ask the management API. Raises OSError."""
        request = urllib.request.Request(  # noqa: S310 - http, and of our own
            f"{self.management_url}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Authorization": "Basic " + base64.b64encode(":".join(self._user).encode()).decode(),
                "Content-Type": "application/json",
            },
        )
        # No proxy: the server is where the URL says.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def answers(self) -> bool:
        """Whether it takes connections: its API says that it listens."""
        try:
            return any(one["protocol"] in {"amqp", "amqp/ssl"} for one in self.api("GET", "overview")["listeners"])
        except (OSError, http.client.HTTPException):
            return False

    def permit(
        self, url: str, *, user: str = "guest", configure: str = ".*", write: str = ".*", read: str = ".*"
    ) -> None:
        """Set what a user may do in the virtual host of `url`."""
        body = {"configure": configure, "write": write, "read": read}
        self.api("PUT", f"permissions/{vhost_of(url)}/{quote(user, safe='')}", body)

    def control(self, *arguments: str) -> None:
        """Give a command of `rabbitmqctl`. Raises Failed."""
        command = [*self._control, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"rabbitmqctl {arguments[0]} failed: {done.stderr.strip()}")

    def close_connections(self, url: str) -> None:
        """Close every connection to the virtual host of `url`, as an operator or a failing node would."""
        self.control("close_all_connections", "--vhost", unquote(vhost_of(url)), "closed by a test")

    def stop_app(self) -> None:
        """Stop RabbitMQ and leave Erlang running: connections are closed, new ones refused."""
        self.control("stop_app")

    def start_app(self) -> None:
        self.control("start_app")

    def alarm(self, *, on: bool) -> None:
        """Raise or end a memory alarm, which blocks every connection that publishes."""
        self.control("set_vm_memory_high_watermark", "0.00000001" if on else "0.6")

    def limit_messages(self, size: int) -> None:
        """Set `max_message_size` for channels that are opened from now on, in bytes; until the server starts anew."""
        in_3_10 = f"persistent_term:put(max_message_size, {size})"
        self.control("eval", f"{in_3_10}, application:set_env(rabbit, max_message_size, {size}).")

    @contextmanager
    def stuck(self, url: str, queue: str) -> Iterator[None]:
        """Meanwhile a classic queue of the virtual host of `url` takes, confirms and gives nothing."""
        name = f'rabbit_misc:r(<<"{unquote(vhost_of(url))}">>, queue, <<"{queue}">>)'
        found = f"{{ok, Queue}} = rabbit_amqqueue:lookup({name}), sys:%s(amqqueue:get_pid(Queue))."
        self.control("eval", found % "suspend")
        try:
            yield
        finally:
            self.control("eval", found % "resume")

    @property
    def _user(self) -> tuple[str, str]:
        parts = urlsplit(self.url)
        return unquote(parts.username or "guest"), unquote(parts.password or "guest")


def vhost_of(url: str) -> str:
    """The virtual host of a URL, as it stands in a path of the API."""
    return quote(unquote(urlsplit(url).path.removeprefix("/")) or "/", safe="")
