"""The state as its viewers see it: built once an interval for all of them, and not at all when nobody looks."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from console.state import State
from gateway.errors import GatewayError

#: How often the state is built while somebody looks, in seconds.
EVERY_S = 2.0

#: How long a state may take before its viewers are told that they see an old one, in seconds.
PATIENCE_S = 3.0

#: Building takes a fifth of the time at most, but where it takes so long that nobody would wait for the next one: then
#: it is tried again after the longest rest, in seconds.
REST_FACTOR, LONGEST_REST_S = 4.0, 10.0

#: How often a viewer hears something, so that it can tell an idle server from one that is gone, in seconds.
SIGN_OF_LIFE_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The last state that could be had, from when it is, and why there is none that is newer.

    `at` and `queues_at` are epoch seconds; None where nothing was had so far.
    """

    state: State | None = None
    at: float | None = None
    queues_at: float | None = None
    trouble: str | None = None

    def renewed(self, state: State, at: float) -> "Snapshot":
        """With a new state; while RabbitMQ is away its queues are those of the last time."""
        if state.queues is not None:
            return Snapshot(state, at, at)
        old = self.state.queues if self.state is not None else None
        return Snapshot(replace(state, queues=old), at, self.queues_at)


Pieces = Mapping[str, str]


class Feed:
    """Builds and draws for all viewers at once. Belongs to one event loop; building and drawing are on a thread."""

    def __init__(
        self,
        look: Callable[[], State],
        draw: Callable[[Snapshot], Pieces],
        rest: Callable[[], None],
        *,
        every_s: float = EVERY_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._look = look
        self._draw = draw
        self._rest = rest
        self._every_s = every_s
        self._patience_s = patience_s
        self._snapshot = Snapshot()
        self._pieces: Pieces | None = None
        self._news = asyncio.Event()
        self._viewers = 0
        self._running: asyncio.Task[None] | None = None
        self.closed = False

    def close(self) -> None:
        """Every view ends. Idempotent."""
        self.closed = True
        self._tell()

    async def pieces(self, within_s: float) -> Pieces:
        """A view for one look: a new one if it can be had within `within_s` seconds, else what there is."""
        with self._watched():
            if self._pieces is None or not self._is_new():
                await self._told(within_s)
        return self._pieces if self._pieces is not None else await asyncio.to_thread(self._drawn, self._snapshot)

    async def views(self) -> AsyncIterator[Pieces]:
        """Every view from now on; the same again as a sign of life."""
        with self._watched():
            while not self.closed:
                if self._pieces is not None:
                    yield self._pieces
                await self._told(SIGN_OF_LIFE_S)

    def _is_new(self) -> bool:
        return self._snapshot.at is not None and time.time() - self._snapshot.at < 2 * self._every_s

    async def _told(self, within_s: float) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), within_s)
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._viewers += 1
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._viewers -= 1

    async def _run(self) -> None:
        while self._viewers and not self.closed:  # again, for who comes while it closes its connections
            while self._viewers and not self.closed:
                began = time.monotonic()
                await self._turn()
                rest_s = min(REST_FACTOR * (time.monotonic() - began), LONGEST_REST_S)
                await asyncio.sleep(max(self._every_s, rest_s))
            await asyncio.to_thread(self._rest)

    async def _turn(self) -> None:
        """Build once, and say so in between when it takes long."""
        building = asyncio.create_task(asyncio.to_thread(self._build))
        done, _ = await asyncio.wait({building}, timeout=self._patience_s)
        if not done:
            await self._publish(replace(self._snapshot, trouble="RabbitMQ or the store takes long to answer"))
        await self._publish(await building)

    def _build(self) -> Snapshot:
        try:
            return self._snapshot.renewed(self._look(), time.time())
        except GatewayError as error:
            return replace(self._snapshot, trouble=str(error))
        except Exception as error:
            logger.exception("A fault of the page")
            return replace(self._snapshot, trouble=_of_ours(error))

    async def _publish(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._pieces = await asyncio.to_thread(self._drawn, snapshot)
        self._tell()

    def _drawn(self, snapshot: Snapshot) -> Pieces:
        """What cannot be drawn is a fault of ours: the page says so, and stays up."""
        try:
            return self._draw(snapshot)
        except Exception as error:
            logger.exception("A fault of the page")
            return self._draw(Snapshot(trouble=_of_ours(error)))


def _of_ours(error: Exception) -> str:
    return f"A fault of the page ({type(error).__name__}): see its log"
