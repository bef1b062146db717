"""A TCP proxy in front of RabbitMQ that does to connections what networks do."""

import socket
import threading
from contextlib import suppress

CHUNK = 65536

#: Frame type, and class and method, of the frame with which RabbitMQ confirms a publish.
_METHOD_FRAME, _BASIC_ACK = 1, (60).to_bytes(2, "big") + (80).to_bytes(2, "big")
_HEADER, _END = 7, 1


class Proxy:
    """Forwards connections to `port` on the loopback interface; its own port is `self.port`. Thread-safe."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._open = threading.Event()
        self._open.set()
        self._cut_after: int | None = None
        self._swallow = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def black_hole(self) -> None:
        """From now on nothing passes, in neither direction, and nobody is told."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything pass again, what was held back included."""
        self._cut_after = None
        self._swallow = 0
        self._open.set()

    def reset(self) -> None:
        """Break every connection."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._break(pair)

    def cut_after(self, size: int) -> None:
        """Break the connection that sends the byte number `size` from now on, wherever in a frame that is."""
        with self._lock:
            self._cut_after = size

    def swallow_confirms(self, count: int = 1) -> None:
        """Drop the next confirms on their way to whoever published."""
        with self._lock:
            self._swallow = count

    def close(self) -> None:
        self._listener.close()
        self.heal()
        self.reset()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._upstream, args=(pair,), daemon=True).start()
            threading.Thread(target=self._downstream, args=(pair,), daemon=True).start()

    def _upstream(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with suppress(OSError):
            while data := client.recv(CHUNK):
                self._open.wait()
                keep = self._allowance(len(data))
                server.sendall(data[:keep])
                if keep < len(data):
                    break
        self._break(pair)

    def _allowance(self, size: int) -> int:
        """How many of these bytes may pass."""
        with self._lock:
            if self._cut_after is None:
                return size
            keep = min(size, self._cut_after)
            self._cut_after = self._cut_after - size if self._cut_after > size else None
            return keep

    def _downstream(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        buffer = b""
        with suppress(OSError):
            while data := server.recv(CHUNK):
                self._open.wait()
                frames, buffer = _frames(buffer + data)
                client.sendall(b"".join(frame for frame in frames if not self._swallowed(frame)))
            client.sendall(buffer)
        self._break(pair)

    def _swallowed(self, frame: bytes) -> bool:
        if frame[0] != _METHOD_FRAME or frame[_HEADER : _HEADER + 4] != _BASIC_ACK:
            return False
        with self._lock:
            self._swallow, swallowed = max(0, self._swallow - 1), self._swallow > 0
        return swallowed

    def _break(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for one in pair:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def _frames(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole frames, and the beginning of the next one."""
    frames = []
    while len(data) >= _HEADER:
        size = _HEADER + int.from_bytes(data[3:_HEADER], "big") + _END
        if len(data) < size:
            break
        frames.append(data[:size])
        data = data[size:]
    return frames, data
