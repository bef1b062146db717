"""Connections to a host by name, each made within a time of its own."""

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from urllib3.util.connection import allowed_gai_family

#: How long a look-up serves all who ask for the same host, in seconds: a burst of calls asks once, and a provider that
#: moves is found again soon.
HELD_S = 10.0

#: As `socket.getaddrinfo` returns it: family, type, protocol, canonical name, address.
Address = tuple[Any, Any, int, str, tuple[Any, ...]]

Options = Sequence[tuple[int, int, int | bytes]]

_Found = Future[list[Address]]


class Addresses:
    """Looks hosts up, once for all threads that ask at about the same time. Thread-safe.

    A look-up cannot be interrupted, so it has a thread of its own; who asks waits no longer than it wants to.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], tuple[float, _Found]] = {}

    def connect(self, host: str, port: int, *, timeout_s: float, options: Options = ()) -> socket.socket:
        """A connected socket that has these options, from the first of the host's addresses that answers.

        The socket's own timeout is what is left of `timeout_s`. Raises TimeoutError after `timeout_s` seconds, of which
        each address has its share; socket.gaierror for a name that has none; OSError of the last one when none answers;
        UnicodeError for what can be no name.
        """
        until = time.monotonic() + timeout_s
        host = host.strip("[]")
        if (literal := _literal(host, port)) is not None:
            return _first([literal], until, options)
        host.encode("idna")  # here, and not on a thread that nobody expects an error of
        found = self._look_up(host, port)
        try:
            return _first(_result(found, timeout_s), until, options)
        except OSError:
            if time.monotonic() < until:  # else it is no fault of the addresses
                self._forget(host, port, found)
            raise

    def _look_up(self, host: str, port: int) -> _Found:
        with self._lock:
            asked_at, found = self._known.get((host, port), (float("-inf"), None))
            if found is None or time.monotonic() >= asked_at + HELD_S:
                found = Future()
                threading.Thread(target=_ask, args=(found, host, port), name="name-look-up", daemon=True).start()
                self._known[host, port] = time.monotonic(), found  # once somebody works on it
            return found

    def _forget(self, host: str, port: int, found: _Found) -> None:
        """The next one asks again, unless somebody has already."""
        with self._lock:
            if self._known.get((host, port), (0.0, None))[1] is found:
                del self._known[host, port]


def _ask(found: _Found, host: str, port: int) -> None:
    try:
        found.set_result(socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM))
    except Exception as error:  # noqa: BLE001  # handed over to the waiting threads, whatever it is
        found.set_exception(error.with_traceback(None))


def _result(found: _Found, timeout_s: float) -> list[Address]:
    """What was found. An error is a new one for each who asks: a shared one would lead from each call to all others."""
    error = found.exception(timeout_s)
    if error is not None:
        raise type(error)(*error.args)
    return found.result()


def _literal(host: str, port: int) -> Address | None:
    """An address that is written out, for which gevent would ask a thread of its pool; None for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return family, socket.SOCK_STREAM, 0, "", (host, port)
    return None


def _first(addresses: list[Address], until: float, options: Options) -> socket.socket:
    # No variable keeps an error: it would keep its call alive, with key and prompt, until a full garbage collection.
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            sock = _connect(address, _left_s(until) / left, options)
        except OSError:
            if left == 1:
                raise
            continue
        sock.settimeout(_left_s(until))
        return sock
    raise socket.gaierror(socket.EAI_NONAME, "the host has no address")


def _left_s(until: float) -> float:
    """Seconds until then, never 0: a socket would take that for not to wait at all."""
    return max(until - time.monotonic(), 0.001)


def _connect(address: Address, timeout_s: float, options: Options) -> socket.socket:
    family, kind, protocol, _name, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.settimeout(timeout_s)
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock
