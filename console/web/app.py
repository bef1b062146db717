"""The addresses of the page, and what each does.

GET  /               the page; GET /events: what has changed of it, for as long as somebody looks
GET  /dead           dead letters by reason
POST /dead/plan      a dry run of one group
POST /dead/send      sends what a dry run has shown
GET, POST /login     POST /logout
GET  /static/…       its style, script and icon
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from pika.exceptions import AMQPError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from console.dead.queues import gone
from console.web.drawing import Drawing
from console.web.feed import Feed, Pieces
from console.web.guard import COOKIE, TOO_MANY, Guard, Place
from console.web.letters import Letters
from console.web.sessions import LIFE_S, Sessions, TooManyGuesses
from gateway.errors import GatewayError

STATIC = Path(__file__).parent / "static"

#: How long a first look waits for new figures, in seconds: the page is there in under a second, with or without them.
FIRST_LOOK_S = 0.6

#: How many may look at a time.
MOST_VIEWERS = 50

#: The longest form, in bytes.
LONGEST_FORM = 4096

Handler = Callable[[Request], Awaitable[Response]]
Form = Mapping[str, str]

logger = logging.getLogger(__name__)


class Console:
    """What the addresses do. `sessions` is None where there is no password, and then nothing can be changed."""

    def __init__(self, feed: Feed, drawing: Drawing, letters: Letters, sessions: Sessions | None, place: Place) -> None:
        self._feed = feed
        self._drawing = drawing
        self._letters = letters
        self._sessions = sessions
        self._place = place
        self._viewers = 0

    def app(self, *, also: Sequence[BaseRoute] = (), health: Sequence[str] = ()) -> Starlette:
        """The application; `also`: addresses of others, `health`: those that need no password."""
        routes = [
            Route("/", self.page),
            Route("/events", self.events),
            Route("/dead", self.dead),
            Route("/dead/plan", self._changing(self.plan), methods=["POST"]),
            Route("/dead/send", self._changing(self.send), methods=["POST"]),
            Route("/login", self.login),
            Route("/login", self.log_in, methods=["POST"]),
            Route("/logout", self._changing(self.log_out), methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
            *also,
        ]
        guard = Middleware(Guard, place=self._place, sessions=self._sessions, public=("/login",), health=health)
        return Starlette(routes=routes, middleware=[guard])

    async def page(self, request: Request) -> Response:
        pieces = await self._feed.pieces(FIRST_LOOK_S)
        return self._html(request, "page.html", pieces=pieces)

    async def events(self, request: Request) -> Response:
        if self._viewers >= MOST_VIEWERS:
            return PlainTextResponse("Too many look already.\n", 503, {"Retry-After": "30"})
        return StreamingResponse(self._changes(request), media_type="text/event-stream")

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

    async def dead(self, request: Request) -> Response:
        survey = await self._asked(self._letters.survey)
        if isinstance(survey, GatewayError):
            return self._html(request, "dead.html", status=503, survey=None, trouble=str(survey))
        return self._html(request, "dead.html", survey=survey, trouble=None)

    async def plan(self, request: Request, form: Form) -> Response:
        plan = await self._asked(partial(self._letters.plan, form.get("group", "")))
        if isinstance(plan, GatewayError):
            return self._html(request, "dead.html", status=503, survey=None, trouble=str(plan))
        return self._html(request, "plan.html", plan=plan)

    async def send(self, request: Request, form: Form) -> Response:
        sent = await self._asked(partial(self._letters.send, form.get("plan", "")))
        if isinstance(sent, GatewayError):
            trouble = f"{sent}. What was confirmed has gone; look again."
            return self._html(request, "dead.html", status=503, survey=None, trouble=trouble)
        if sent is None:
            return self._html(request, "sent.html", status=409, sent=None)
        logger.warning("Sent again from the page: %s", sent.targets)
        return self._html(request, "sent.html", sent=sent)

    async def login(self, request: Request) -> Response:
        if self._sessions is None or request.state.session is not None:
            return RedirectResponse("/", 303)
        return self._html(request, "login.html", trouble=None)

    async def log_in(self, request: Request) -> Response:
        form = await _form(request)
        if form is None or self._sessions is None:
            return PlainTextResponse("This is no form of ours.\n", 400)
        try:
            session = self._sessions.log_in(form.get("password", ""))
        except TooManyGuesses:
            return self._html(request, "login.html", status=429, headers={"Retry-After": "60"}, trouble=TOO_MANY)
        if session is None:
            return self._html(request, "login.html", status=403, trouble="That is not the password.")
        response = RedirectResponse("/", 303)
        secure = self._is_encrypted(request)
        response.set_cookie(
            COOKIE, session.token, max_age=int(LIFE_S), httponly=True, samesite="strict", secure=secure, path="/"
        )
        return response

    async def log_out(self, request: Request, _form: Form) -> Response:
        if self._sessions is not None:
            self._sessions.log_out(request.state.session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    def _is_encrypted(self, request: Request) -> bool:
        forwarded = request.headers.get("x-forwarded-proto", "")
        return forwarded == "https" or (self._place.url or "").startswith("https://")

    @staticmethod
    def _changing(handler: Callable[[Request, Form], Awaitable[Response]]) -> Handler:
        """For what changes something: a form with the token of this session, or nothing happens."""

        async def checked(request: Request) -> Response:
            form, session = await _form(request), request.state.session
            if form is None or session is None or not session.made(form.get("csrf", "")):
                return PlainTextResponse("This is no form of this session: load the page again.\n", 403)
            return await handler(request, form)

        return checked

    @staticmethod
    async def _asked(question: Callable[[], Any]) -> Any:
        """The answer of RabbitMQ, or the error as one line; on a thread."""
        try:
            return await asyncio.to_thread(question)
        except AMQPError as error:
            return gone(error)
        except GatewayError as error:
            return error

    def _html(
        self, request: Request, name: str, *, status: int = 200, headers: dict[str, str] | None = None, **facts: Any
    ) -> Response:
        session = request.state.session
        about = {"session": session, "has_password": self._sessions is not None}
        return HTMLResponse(self._drawing.page(name, **about, **facts), status, headers)


async def _form(request: Request) -> Form | None:
    """The fields of a form, None when it is too long or none of ours."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return None
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            return None
    fields = parse_qs(body.decode(errors="replace"), max_num_fields=10)
    return {name: values[0] for name, values in fields.items()}
