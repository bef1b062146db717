"""The wall-clock deadline of a call: a thread that ends the call's connection when its time is up.

A socket timeout cannot do this, it starts anew with every byte: a server that sends one byte a second, or white space
to keep the connection alive, holds the caller for ever. Shutting the socket down from outside wakes whatever waits
on it (TLS handshake, send, headers, body) with an end of file or an error.
"""

import _socket
import contextlib
import socket
import threading
import time


class Call:
    """One HTTP call: at its deadline it loses its connection, unless it is over by then.

    `deadline` is a reading of `time.monotonic()`. `expired` is True when its deadline ended the call, `abandoned` when
    somebody did who does not want the answer any more. Thread-safe.
    """

    def __init__(self, timeout_s: float) -> None:
        self.deadline = time.monotonic() + timeout_s
        self.expired = False
        self.abandoned = False
        self._over = False
        self._handle: _socket.socket | None = None
        self._owner = False  # of the handle: its connection was closed before its answer was read
        self._lock = threading.Lock()

    @property
    def remaining_s(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def attach(self, handle: _socket.socket) -> None:
        """From now on the deadline ends the connection of this handle, which stays the connection's own."""
        with self._lock:
            self._release()
            self._handle = handle
            if self.expired or self.abandoned:
                self._shut_down()

    def adopt(self, handle: _socket.socket) -> bool:
        """The connection gives its handle up: the call closes it when it is over; False when it has nothing to do."""
        with self._lock:
            self._owner = handle is self._handle
            return self._owner

    def expire(self) -> None:
        """End the call's connection, if the call is not over."""
        with self._lock:
            if not self._over:
                self.expired = True
                self._shut_down()

    def abandon(self) -> None:
        """The same, because its answer is not wanted any more."""
        with self._lock:
            if not self._over:
                self.abandoned = True
                self._shut_down()

    def finish(self) -> None:
        """The call is over: the connection may serve another call, and the deadline does not touch it. Idempotent."""
        with self._lock:
            self._over = True
            self._release()

    def _shut_down(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):  # the peer was faster
                self._handle.shutdown(socket.SHUT_RDWR)
            self._release()

    def _release(self) -> None:
        if self._handle is not None and self._owner:
            self._handle.close()
        self._handle, self._owner = None, False


class Deadlines:
    """Expires every watched call at its deadline; one thread, started with the first call, asleep between deadlines."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._changed = threading.Condition(threading.Lock())
        self._wakes_at = float("inf")
        self._stopping = False
        self._thread: threading.Thread | None = None

    def watch(self, call: Call) -> None:
        """`call` expires at its deadline unless `forget` comes first."""
        with self._changed:
            self._calls.add(call)
            self._ensure_running()
            if call.deadline < self._wakes_at:
                self._changed.notify()

    def forget(self, call: Call) -> None:
        # Without waking the thread: it wakes once for nothing at the old deadline, which is cheaper than once per call.
        with self._changed:
            self._calls.discard(call)

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end; True when it has within `timeout_s`. Calls still watched expire now. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _ensure_running(self) -> None:
        # Not alive also after a fork, which takes over the object and not its thread.
        if self._thread is None or not self._thread.is_alive():
            self._stopping = False
            self._wakes_at = float("inf")
            self._thread = threading.Thread(target=self._run, name="http-deadlines", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        with self._changed:
            while not self._stopping:
                self._expire(before=time.monotonic())
                self._wakes_at = min((call.deadline for call in self._calls), default=float("inf"))
                self._changed.wait(max(self._wakes_at - time.monotonic(), 0.0) if self._calls else None)
            self._expire(before=float("inf"))

    def _expire(self, *, before: float) -> None:
        for call in [call for call in self._calls if call.deadline <= before]:
            self._calls.discard(call)
            call.expire()
