"""An answer while it comes: what the model says is told piece by piece, before the answer is whole.

For who wants to hear it early, and for nobody else: what an answer means is decided when it is whole, by the same rules
as without this.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.providers.bodies import read
from gateway.providers.deadlines import Call
from gateway.providers.encodings import Unpacking

#: Of every call that is listened to. An error comes as a document.
ACCEPT: Final[Mapping[str, str | bytes]] = {"Accept": "text/event-stream, application/json"}

logger = logging.getLogger(__name__)


class Listener:
    """Hears the text of one answer, and may end the call that it comes from. `hear` must not wait."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self.hear = hear
        self._lock = threading.Lock()
        self._ended = False
        self._call: Call | None = None

    def attach(self, call: Call) -> None:
        """From now on this is the call."""
        with self._lock:
            self._call = call
            if self._ended:
                call.abandon()

    def end(self) -> None:
        """The answer is not wanted any more: its connection is closed. On any thread; idempotent."""
        with self._lock:
            self._ended = True
            if self._call is not None:
                self._call.abandon()


class Live:
    """Finds the text in the lines of a body as they come; `text_of` gives that of one event.

    Nothing that it meets ends the call: what it cannot read it does not tell.
    """

    def __init__(self, listener: Listener, text_of: Callable[[dict[str, Any]], str]) -> None:
        self.attach = listener.attach
        self._hear = listener.hear
        self._text_of = text_of
        self._unpacking: Unpacking | None = None
        self._line = bytearray()

    def begin(self, *, limit: int) -> None:
        """A body begins, of which no more than `limit` bytes are looked at."""
        self._unpacking = Unpacking(limit=limit)

    def fed(self, part: bytes) -> None:
        """Another part of the body has come."""
        if self._unpacking is None:
            return
        try:
            text = "".join(self._texts(self._unpacking.fed(part)))
            if text:
                self._hear(text)
        except Exception:  # a fault of ours must not cost the answer, which is paid for
            logger.exception("The rest of the answer is told when it is whole")
            self._unpacking = None

    def _texts(self, plain: bytes) -> Iterator[str]:
        self._line += plain
        if b"\n" not in plain:
            return
        *lines, self._line = self._line.split(b"\n")
        for line in lines:
            yield from map(self._text_of, read(bytes(line)).objects)
