"""Pooled connections that obey the deadline of the call that uses them.

Three small subclasses of urllib3's classes and one of requests' adapter. They hook in where a connection is made
(`_new_conn`, for `_dns_host`), used (`request`) and given back (`_put_conn`); should urllib3 rename one of these, the
tests of the transport fail.

What urllib3 does with a connection that the server closed while it idled in the pool: before it reuses one it looks
whether the socket is readable (`is_connection_dropped`), and opens another when it is. Nothing has been sent by then. A
close that comes later, while the request is on its way, is an error of this call: it is not sent again, because
nobody knows whether it was billed.
"""

import _socket
import os
import socket
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from http.client import HTTPResponse
from types import SimpleNamespace
from typing import Any, cast

import requests
from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from gateway.providers.addresses import Addresses
from gateway.providers.deadlines import Call

#: The call that this thread is making.
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)

#: Of the buffer of an answer's head, in place of 8 KiB; a body is read past it.
BUFFER_BYTES = 2048

#: Of all connections of this process.
_ADDRESSES = Addresses()

#: A peer that vanished without a word (NAT, power) is noticed after about a minute: while a model thinks nothing else
#: would tell a dead connection from a slow answer.
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    *(
        [
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        ]
        if sys.platform == "linux"
        else []
    ),
]


class _Received(HTTPResponse):
    """Reads ahead through a buffer that is small: every call in flight has one, while a model thinks."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        source = SimpleNamespace(makefile=partial(sock.makefile, buffering=BUFFER_BYTES))
        super().__init__(cast("socket.socket", source), *args, **kwargs)


class _Deadlined(HTTPConnection):
    """A connection that its call's deadline can end from the first packet on."""

    response_class = _Received
    _handle: _socket.socket | None = None
    _held: list[bytes] | None = None

    def _new_conn(self) -> socket.socket:
        call = current_call.get()
        if call is None:
            raise LookupError("a connection is made by a call")
        # Not urllib3's way: a look-up cannot be interrupted there, and each address is granted the whole time anew.
        try:
            sock = _ADDRESSES.connect(
                self._dns_host, self.port, timeout_s=call.remaining_s, options=self.socket_options or ()
            )
        except TimeoutError:
            raise ConnectTimeoutError(self, "no connection within the deadline") from None
        except OSError as error:
            raise NewConnectionError(self, f"no connection: {type(error).__name__}") from error
        # A duplicate of the descriptor: wrapping a socket in TLS detaches the object that we were given, and a closed
        # descriptor's number may belong to another connection by the time of the shutdown.
        self._handle = _socket.socket(fileno=os.dup(sock.fileno()))
        call.attach(self._handle)
        return sock

    @property
    def is_connected(self) -> bool:
        """Whether nothing has come while it idled; urllib3 asks that before it uses a connection again."""
        if self.sock is None or self._handle is None:
            return False
        try:
            self._handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # an end of file, or something that nobody has asked for

    def request(self, *args: Any, **kwargs: Any) -> None:
        call = current_call.get()
        if call is not None and self._handle is not None:
            call.attach(self._handle)  # a connection from the pool
        self._held = []
        try:
            super().request(*args, **kwargs)
            pieces = self._held
        finally:
            self._held = None
        super().send(b"".join(pieces))

    def send(self, data: Any) -> None:
        """Head and body leave together: by itself each would wake the server, and cost a packet."""
        if self._held is None:
            super().send(data)
            return
        if self.sock is None:
            self.connect()
        self._held.append(data)

    def connect(self) -> None:
        held, self._held = self._held, None  # what is sent to open a tunnel is answered first
        try:
            super().connect()
        finally:
            self._held = held

    def close(self) -> None:
        handle, self._handle = self._handle, None
        call = current_call.get()
        # An answer without a length is read from the connection after http.client has closed it.
        if handle is not None and not (call is not None and call.adopt(handle)):
            handle.close()
        super().close()


class _DeadlinedTLS(_Deadlined, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Deadlined

    def _put_conn(self, conn: Any) -> None:
        _finish_current()
        super()._put_conn(conn)


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlinedTLS

    def _put_conn(self, conn: Any) -> None:
        _finish_current()
        super()._put_conn(conn)


def _finish_current() -> None:
    # Before the connection is within reach of another thread: a late deadline must not hit that thread's call.
    call = current_call.get()
    if call is not None:
        call.finish()


_POOLS = {"http": _Pool, "https": _TLSPool}


class _Response(requests.Response):
    """Without what only a session has a use for, which costs more than all the rest: cookies, a history."""

    def __init__(self, request: PreparedRequest, raw: Any) -> None:
        self.request, self.url = request, request.url or ""
        self.raw, self.status_code, self.reason, self.headers = raw, raw.status, raw.reason, raw.headers
        self._content: Any = False
        self._content_consumed = False


class DeadlineAdapter(HTTPAdapter):
    """Connections that obey `current_call`, at most `pool_size` idle ones a host, and never a second try.

    For use without a session. What requests works out anew for every call, and is the same for all calls to one URL, is
    worked out once.
    """

    def __init__(self, *, pool_size: int) -> None:
        self._pools: dict[Any, Any] = {}
        self._targets: dict[Any, str] = {}
        super().__init__(pool_maxsize=pool_size, max_retries=0)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Mapping[str, str] | None = None, cert: Any = None
    ) -> Any:
        route = (request.url, verify, cert, *(proxies or {}).values())
        if route not in self._pools:
            self._pools[route] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return self._pools[route]

    def request_url(self, request: PreparedRequest, proxies: Mapping[str, str] | None) -> str:
        route = (request.url, *(proxies or {}).values())
        if route not in self._targets:
            self._targets[route] = super().request_url(request, proxies)
        return self._targets[route]

    def build_response(self, req: PreparedRequest, resp: Any) -> requests.Response:
        return _Response(req, resp)

    def close(self) -> None:
        self._pools.clear()
        super().close()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, socket_options=_KEEP_ALIVE)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, socket_options=_KEEP_ALIVE)
        manager.pool_classes_by_scheme = _POOLS
        return manager
