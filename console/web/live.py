"""The page itself, and what has changed of it, for as long as somebody looks."""

import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from console.web.drawing import Drawing
from console.web.feed import Feed, Pieces
from console.web.sessions import Sessions

#: How long a first look waits for new figures, in seconds: the page is there in under a second, with or without them.
FIRST_LOOK_S = 0.4

#: How many may look at a time.
MOST_VIEWERS = 50


class Live:
    """All viewers see the same feed."""

    def __init__(
        self, feed: Feed, drawing: Drawing, sessions: Sessions | None, *, first_look_s: float = FIRST_LOOK_S
    ) -> None:
        self._feed = feed
        self._drawing = drawing
        self._sessions = sessions
        self._first_look_s = first_look_s
        self._viewers = 0

    async def page(self, request: Request) -> Response:
        return self._drawing.html(request, "page.html", pieces=await self._feed.pieces(self._first_look_s))

    async def events(self, request: Request) -> Response:
        if self._viewers >= MOST_VIEWERS:
            return PlainTextResponse("Too many look already.\n", 503, {"Retry-After": "30"})
        at_once = {"X-Accel-Buffering": "no"}  # nginx would keep them until there are more
        return StreamingResponse(self._changes(request), headers=at_once, media_type="text/event-stream")

    async def _changes(self, request: Request) -> AsyncIterator[str]:
        """The pieces that are not as they were, as server-sent events; nothing more when the session has ended."""
        seen: Pieces = {}
        self._viewers += 1
        try:
            async for pieces in self._feed.views():
                if not self._may_still_look(request):
                    return
                changed = {name: html for name, html in pieces.items() if seen.get(name) != html}
                seen = pieces
                yield f"data: {json.dumps(changed)}\n\n"
        finally:
            self._viewers -= 1

    def _may_still_look(self, request: Request) -> bool:
        session = request.state.session
        return self._sessions is None or session is None or self._sessions.find(session.token) is not None
