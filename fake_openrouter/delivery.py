"""Brings an answer to the caller, with the faults that belong on the wire."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fake_openrouter.provider import PROCESSING, Answer
from fake_openrouter.record import Call, Record
from fake_openrouter.script import Behaviour

_CHUNK_BYTES = 256 * 1024
_WHITESPACE_EVERY_S = 0.05

#: What must have happened before the answer is sent; called at most once.
Wait = Callable[[], Coroutine[Any, Any, None]]

#: Returns when the gate of that name is open.
Passed = Callable[[str], Coroutine[Any, Any, None]]


class Delivery(Response):
    """Waits, then sends `answer` as `behaviour` says; the record knows the end of the call before its caller does."""

    def __init__(  # noqa: PLR0913 - the facts of one call
        self, record: Record, call: Call, answer: Answer, behaviour: Behaviour, *, wait: Wait | None, passed: Passed
    ) -> None:
        super().__init__()
        self._passed = passed
        self._record = record
        self._call = call
        self._answer = answer
        self._behaviour = behaviour
        self._wait = wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if not (self._wait or self._behaviour.drip or self._behaviour.cut is not None or self._answer.events):
                await self._all(send, scope["state"]["transport"])
            else:
                await unless_gone(receive, self._slowly(scope, send))
        finally:
            self._record.end(self._call, aborted=True)

    async def _slowly(self, scope: Scope, send: Send) -> None:
        transport: asyncio.Transport = scope["state"]["transport"]
        if self._wait is not None:
            if self._behaviour.whitespace:
                await self._whitespace(send, self._wait)
                return
            await self._wait()
        drip = self._behaviour.drip
        if drip is not None and drip.where == "headers":
            await self._dripping_head(transport, drip.interval_s)
        elif drip is not None:
            await self._dripping_body(send, drip.interval_s)
        elif self._behaviour.cut is not None:
            await self._cut(send, transport, self._behaviour.cut)
        elif self._answer.events:
            await self._events(send, transport)
        else:
            await self._all(send, transport)

    async def _all(self, send: Send, transport: asyncio.Transport) -> None:
        body = self._answer.body
        await self._start(send, length=len(body))
        for at in range(0, len(body) - _CHUNK_BYTES, _CHUNK_BYTES):
            await _send_part(send, body[at : at + _CHUNK_BYTES])
            if transport.is_closing():
                return
        self._record.end(self._call)
        rest = (len(body) - 1) // _CHUNK_BYTES * _CHUNK_BYTES if body else 0
        await _send_part(send, body[rest:], last=True)

    async def _events(self, send: Send, transport: asyncio.Transport) -> None:
        """One event after the other, of no stated length, until something happens to the stream."""
        script = self._behaviour.stream
        await self._start(send, length=None)
        for number, event in enumerate(self._answer.events):
            if number == script.after:
                if script.gate is not None:
                    await self._passed(script.gate)
                if script.then != "go_on":
                    await self._break_off(send, transport, script.then)
                    return
            await _send_part(send, event)
            await asyncio.sleep(script.pause_s)
        self._record.end(self._call)
        await _send_part(send, b"", last=True)

    async def _break_off(self, send: Send, transport: asyncio.Transport, how: str) -> None:
        self._record.end(self._call)
        if how == "lose":
            await _hang_up(transport)
        await _send_part(send, self._answer.fault if how == "error" else b"", last=True)

    async def _whitespace(self, send: Send, wait: Wait) -> None:
        """White space while the wait lasts, then the body; a status that is no 200 can only be told before.

        A stream has comments in its place.
        """
        filler = PROCESSING if self._answer.events else b" "
        await self._start(send, length=None)
        waiting = asyncio.ensure_future(wait())
        try:
            while not waiting.done():
                await _send_part(send, filler)
                await asyncio.wait({waiting}, timeout=_WHITESPACE_EVERY_S)
        finally:
            waiting.cancel()
        self._record.end(self._call)
        await _send_part(send, self._answer.body, last=True)

    async def _dripping_head(self, transport: asyncio.Transport, interval_s: float) -> None:
        """Every byte by itself, from the status line on: past ASGI, which knows a head only as a whole."""
        self._call.status = self._answer.status
        for byte in _each_byte(self._on_the_wire()):
            transport.write(byte)
            await asyncio.sleep(interval_s)
        self._record.end(self._call)
        await _hang_up(transport)

    async def _dripping_body(self, send: Send, interval_s: float) -> None:
        body = self._answer.body
        await self._start(send, length=len(body))
        for byte in _each_byte(body[:-1]):
            await _send_part(send, byte)
            await asyncio.sleep(interval_s)
        self._record.end(self._call)
        await _send_part(send, body[-1:], last=True)

    async def _cut(self, send: Send, transport: asyncio.Transport, size: int) -> None:
        """At most `size` bytes of a body that was announced as longer, then the connection is closed."""
        await self._start(send, length=max(len(self._answer.body), size + 1))
        await _send_part(send, self._answer.body[:size])
        self._record.end(self._call)
        await _hang_up(transport)

    async def _start(self, send: Send, *, length: int | None) -> None:
        self._call.status = self._answer.status
        headers = self._wire_headers(length)
        await send({"type": "http.response.start", "status": self._answer.status, "headers": headers})

    def _wire_headers(self, length: int | None) -> list[tuple[bytes, bytes]]:
        stated = {} if length is None else {"Content-Length": str(length)}
        return [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in {**stated, **self._answer.headers}.items()
        ]

    def _on_the_wire(self) -> bytes:
        """The whole answer as it travels, for a connection that ends with it."""
        status = self._answer.status
        phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
        headers = [*self._wire_headers(len(self._answer.body)), (b"connection", b"close")]
        lines = [f"HTTP/1.1 {status} {phrase}".encode(), *(b": ".join(header) for header in headers)]
        return b"\r\n".join([*lines, b"", self._answer.body])


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Return when `work` is done or the caller has left; then the work is cancelled."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _each_byte(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


async def _send_part(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


async def _hang_up(transport: asyncio.Transport) -> None:
    """Close the connection after what was written; the server learns of it as of a caller who left."""
    transport.close()
    await asyncio.Event().wait()
