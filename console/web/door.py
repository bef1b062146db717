"""The way in and out: a password for a cookie."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from console.web.drawing import Drawing
from console.web.forms import Form, read
from console.web.guard import COOKIE, TOO_MANY, Place
from console.web.sessions import LIFE_S, Session, Sessions, TooManyGuesses


class Door:
    """Where there is no password it leads nowhere but to the page."""

    def __init__(self, drawing: Drawing, sessions: Sessions | None, place: Place) -> None:
        self._drawing = drawing
        self._sessions = sessions
        self._place = place

    async def login(self, request: Request) -> Response:
        if self._sessions is None or request.state.session is not None:
            return RedirectResponse("/", 303)
        return self._drawing.html(request, "login.html", trouble=None)

    async def log_in(self, request: Request) -> Response:
        form = await read(request)
        if form is None or self._sessions is None:
            return PlainTextResponse("This is no form of ours.\n", 400)
        try:
            session = self._sessions.log_in(form.get("password", ""))
        except TooManyGuesses:
            response = self._drawing.html(request, "login.html", status=429, trouble=TOO_MANY)
            response.headers["Retry-After"] = "60"
            return response
        if session is None:
            return self._drawing.html(request, "login.html", status=403, trouble="That is not the password.")
        return self._let_in(request, session)

    async def log_out(self, request: Request, _form: Form) -> Response:
        if self._sessions is not None:
            self._sessions.log_out(request.state.session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    def _let_in(self, request: Request, session: Session) -> Response:
        """With a cookie that no script and no other site can use."""
        forwarded = request.headers.get("x-forwarded-proto", "")
        secure = forwarded == "https" or (self._place.url or "").startswith("https://")
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE, session.token, max_age=int(LIFE_S), path="/", httponly=True, samesite="strict", secure=secure
        )
        return response
