"""The addresses of the page.

GET  /               the page; GET /events: what has changed of it, for as long as somebody looks
GET  /dead           dead letters by reason
POST /dead/plan      a dry run of one group
POST /dead/send      sends what a dry run has shown
GET, POST /login     POST /logout
GET  /static/…       its style, script and icon
"""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from console.web.door import Door
from console.web.forms import changing
from console.web.guard import Guard, Place
from console.web.letter_pages import LetterPages
from console.web.live import Live
from console.web.sessions import Sessions

STATIC = Path(__file__).parent / "static"


def application(  # noqa: PLR0913 - what it is made of
    live: Live,
    letters: LetterPages,
    door: Door,
    *,
    place: Place,
    sessions: Sessions | None,
    also: Sequence[BaseRoute] = (),
    health: Sequence[str] = (),
) -> Starlette:
    """The application; `also`: addresses of others, of which those of `health` need no password.

    Without `sessions` there is no password, and nothing can be changed.
    """
    routes = [
        Route("/", live.page),
        Route("/events", live.events),
        Route("/dead", letters.dead),
        Route("/dead/plan", changing(letters.plan), methods=["POST"]),
        Route("/dead/send", changing(letters.send), methods=["POST"]),
        Route("/login", door.login),
        Route("/login", door.log_in, methods=["POST"]),
        Route("/logout", changing(door.log_out), methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
        *also,
    ]
    guard = Middleware(Guard, place=place, sessions=sessions, public=("/login",), health=health)
    return Starlette(routes=routes, middleware=[guard])
