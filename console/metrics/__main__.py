"""`python -m console.metrics`: `/metrics`, `/healthz` and `/readyz` without the page, until SIGTERM or Ctrl-C.

What it tells holds no secret, so it asks for no password; it listens on this machine only, unless told otherwise.
"""

import argparse
import logging
import signal
import socket
import sys

import uvicorn
from starlette.applications import Starlette

from console.metrics.routes import routes
from console.metrics.source import OpenedLater
from gateway import exits
from gateway.settings import SettingsError, load_settings

HOST, PORT = "127.0.0.1", 8322


def main() -> int:
    """Serve; the exit code of the process."""
    options = _options()
    logging.basicConfig(format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    try:
        source = OpenedLater(load_settings(need_keys=False))
        listening = socket.create_server((options.host, options.port))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return exits.SETTINGS
    except OSError as error:
        print(f"{options.host}:{options.port} cannot be listened on: {error.strerror}", file=sys.stderr)
        return exits.UNAVAILABLE
    for name in ("pika", "gateway.rabbitmq"):  # one that is away is `gemini_rabbitmq_up 0`, and no line at each scrape
        logging.getLogger(name).setLevel(logging.CRITICAL)
    app = Starlette(routes=routes(source))
    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, server_header=False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it once more after it has ended in order
    print(f"The metrics are at http://{options.host}:{listening.getsockname()[1]}/metrics", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # it has served what it was at
    finally:
        source.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m console.metrics", description="Metrics for Prometheus.")
    parser.add_argument("--host", default=HOST, help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="its port; 0: any (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
