"""`python -m console.web`: the page, until SIGTERM or Ctrl-C."""

import logging
import signal
import socket
import sys
from functools import partial

import uvicorn

from console.dead.queues import DeadQueues
from console.metrics.routes import HEALTH, routes
from console.metrics.source import OpenedLater
from console.web.app import application
from console.web.door import Door
from console.web.drawing import Drawing
from console.web.feed import Feed
from console.web.guard import Place
from console.web.letter_pages import LetterPages
from console.web.letters import Letters
from console.web.live import Live
from console.web.sessions import Sessions
from console.web.source import Source
from gateway import exits
from gateway.settings import Settings, SettingsError, load_settings


def main() -> int:
    """Serve; the exit code of the process."""
    logging.basicConfig(format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # what it has to say the page says itself
    try:
        settings = load_settings(need_keys=False)
        place = place_of(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return exits.SETTINGS
    try:
        listening = listen(settings.console_host, settings.console_port)
    except OSError as error:
        where = f"{settings.console_host} (CONSOLE_HOST) port {settings.console_port} (CONSOLE_PORT)"
        print(f"The page cannot listen on {where}: {error.strerror}", file=sys.stderr)
        return exits.UNAVAILABLE
    serve(settings, place, listening)
    return 0


def place_of(settings: Settings) -> Place:
    """Where it listens. Raises SettingsError when others could reach it and nobody would have to say who they are."""
    place = Place(settings.console_host, settings.console_url)
    if settings.console_password is None and not (place.is_this_machine and place.url is None):
        raise SettingsError(
            f"The page does not listen on {place.host} without a password, others reach it there: set CONSOLE_PASSWORD,"
            " or leave out CONSOLE_HOST and CONSOLE_URL"
        )
    return place


def listen(host: str, port: int) -> socket.socket:
    """A socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


class Server(uvicorn.Server):
    """Ends the views that are open before it waits for requests to end."""

    feed: Feed

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.feed.close()
        await super().shutdown(sockets)


def serve(settings: Settings, place: Place, listening: socket.socket) -> None:
    """Until a signal comes."""
    password = settings.console_password
    sessions = Sessions(password.get_secret_value()) if password is not None else None
    source, drawing = Source(settings), Drawing(has_password=sessions is not None)
    stores = OpenedLater(settings)
    feed = Feed(source.look, drawing.pieces, source.rest)
    letters = LetterPages(drawing, Letters(partial(DeadQueues, settings)))
    live, door = Live(feed, drawing, sessions), Door(drawing, sessions, place)
    config = uvicorn.Config(
        application(live, letters, door, place=place, sessions=sessions, also=routes(stores), health=HEALTH),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=200,
        timeout_graceful_shutdown=2,
    )
    server = Server(config)
    server.feed = feed
    host, port = listening.getsockname()[:2]
    right = "read-only: CONSOLE_PASSWORD is not set" if sessions is None else "with a password"
    print(f"The page is at http://{f'[{host}]' if ':' in host else host}:{port}/ ({right})", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn ends in order, and then raises it again
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        return
    finally:
        source.close()
        stores.close()


if __name__ == "__main__":
    sys.exit(main())
