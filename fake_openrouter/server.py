"""Serves the stand-in until a signal ends it."""

import asyncio
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

_BACKLOG = 2048


def exit_on_signals() -> None:
    """End the process with 0 on SIGTERM and SIGINT; also after serving, when uvicorn raises the signal once more."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _leave)


def end_with_stdin() -> None:
    """End as on SIGTERM when stdin is closed: whoever holds its other end leaves no process behind, even if killed."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # With its protocol named: asyncio switches Nagle's delay (40 ms an answer) off only for what says that it is TCP.
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(_BACKLOG)
    return listener


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve on `listener` until SIGTERM or SIGINT; then every connection is dropped at once."""
    config = uvicorn.Config(
        app,
        http=ExposedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,  # uvicorn's own asks for a stdout
        log_level="critical",
        timeout_keep_alive=300,  # longer than callers keep theirs: this end never closes first
        timeout_graceful_shutdown=8,
        backlog=_BACKLOG,
        server_header=False,
    )
    _PromptServer(config).run(sockets=[listener])


class ExposedProtocol(H11Protocol):
    """uvicorn's protocol, with the transport in `scope["state"]`: some faults can only be made there."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}


class _PromptServer(uvicorn.Server):
    """Does not wait for calls that hang."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def _leave(_signum: int, _frame: FrameType | None) -> None:
    os._exit(0)  # an exception could come in the middle of asyncio's start, which then complains; nothing is unsaved
