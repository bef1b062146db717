"""Pooled connections that obey the deadline of the call that uses them.

Three small subclasses of urllib3's classes and one of requests' adapter. They hook in where a connection is made
(`_new_conn`), used (`request`) and given back (`_put_conn`); should urllib3 rename one of these, the tests of the
transport fail.

What urllib3 does with a connection that the server closed while it idled in the pool: before it reuses one it looks
whether the socket is readable (`is_connection_dropped`), and opens another when it is. Nothing has been sent by then. A
close that comes later, while the request is on its way, is an error of this call: it is not sent again, because
nobody knows whether it was billed.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextvars import ContextVar
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError

from gateway.providers.watchdog import Call

#: The call that this thread is making.
current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)

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


class _Deadlined(HTTPConnection):
    """A connection that its call's deadline can end from the first packet on."""

    def _new_conn(self) -> socket.socket:
        call = current_call.get()
        if call is None:
            return super()._new_conn()
        # In a thread of its own, because a name look-up cannot be interrupted, and because urllib3 grants the connect
        # timeout to each address of a host anew. One thread for a connection, not for a call.
        made: Future[socket.socket] = Future()
        threading.Thread(target=_connect, args=(made, super()._new_conn), name="http-connect", daemon=True).start()
        sock = _wait(made, call, self)
        call.attach(sock)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        call = current_call.get()
        if call is not None and not call.attached and self.sock is not None:
            call.attach(self.sock)  # a connection from the pool
        super().request(*args, **kwargs)


def _connect(made: Future[socket.socket], connect: Callable[[], socket.socket]) -> None:
    try:
        sock = connect()
    except Exception as error:  # noqa: BLE001  # handed over to the waiting thread, whatever it is
        with contextlib.suppress(InvalidStateError):
            made.set_exception(error)
        return
    try:
        made.set_result(sock)
    except InvalidStateError:  # the call is over
        sock.close()


def _wait(made: Future[socket.socket], call: Call, connection: HTTPConnection) -> socket.socket:
    try:
        return made.result(call.remaining_s)
    except TimeoutError:
        if made.cancel():
            raise ConnectTimeoutError(connection, "no connection within the deadline") from None
        return made.result()


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


class DeadlineAdapter(HTTPAdapter):
    """Connections that obey `current_call`, at most `pool_size` idle ones a host, and never a second try."""

    def __init__(self, *, pool_size: int) -> None:
        super().__init__(pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, socket_options=_KEEP_ALIVE)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, socket_options=_KEEP_ALIVE)
        manager.pool_classes_by_scheme = _POOLS
        return manager
