"""Ports that nobody listens on, and that stay ours until this process ends."""

import os
import random
import socket
from contextlib import ExitStack

#: Where ports are looked for: the first one of each block says that the others are taken.
#: They lie below those that systems give to outgoing connections: while a server is down, a client that tries to reach
#: it could be given its port, and the server would not come back.
BLOCKS = range(20_000, 32_000, 8)


def free_ports(count: int) -> list[int]:
    """Up to seven ports in a row of the loopback interface, which no other process of ours takes meanwhile."""
    for reserved in random.sample(BLOCKS, len(BLOCKS)):
        ports = [reserved + number for number in range(1, count + 1)]
        with ExitStack() as held:
            try:
                reservation = _bound(held, reserved)
                for port in ports:
                    _bound(held, port)
            except OSError:
                continue
            reservation.listen()
            os.dup(reservation.fileno())  # open until the end of this process: nobody else gets this block
            return ports
    raise OSError(f"no free ports between {BLOCKS.start} and {BLOCKS.stop}")


def _bound(held: ExitStack, port: int) -> socket.socket:
    one = held.enter_context(socket.socket())
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a server does: old connections do not count
    one.bind(("127.0.0.1", port))
    return one
