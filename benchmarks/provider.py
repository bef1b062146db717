"""A provider that costs next to nothing: every POST gets the same answer of OpenRouter's form, after `DELAY` seconds.

python benchmarks/provider.py PORT [DELAY]
"""

import asyncio
import json
import sys
from typing import cast

BODY = json.dumps(
    {
        "id": "gen-benchmark",
        "object": "chat.completion",
        "created": 1,
        "model": "google/gemini-2.5-flash",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A queue holds work until somebody has time for it."},
                "finish_reason": "stop",
                "native_finish_reason": "STOP",
            }
        ],
        "usage": {"prompt_tokens": 21, "completion_tokens": 12, "total_tokens": 33},
    }
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY


class Provider(asyncio.Protocol):
    """Reads requests off one connection, one after the other, and knows no more of HTTP than that needs."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (size := _size(self._read)) is not None and len(self._read) >= size:
            self._read = self._read[size:]
            if self._delay_s:
                asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, ANSWER)
            else:
                self._transport.write(ANSWER)


def _size(data: bytes) -> int | None:
    """The length of the first request, head and body; None while its head is not complete."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(head) + len(end) + int(line.partition(b":")[2])
    return len(head) + len(end)


async def serve(port: int, delay_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Provider(delay_s), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(next(iter(sys.argv[2:]), 0))))
