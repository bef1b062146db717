"""Who may ask for what: every request passes here first, and every response gets its headers here.

the host      on this machine only its own names: a name of somebody else that leads here (DNS rebinding) is refused
the site      nothing that another site embeds or sends; what changes something comes from a page of ours
the password  where there is one: for everything but the way to log in, style sheets and health
"""

import base64
import binascii
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.web.sessions import Sessions, TooManyGuesses

COOKIE = "gemini_console"

#: Nothing is loaded from elsewhere, nothing inline is run or obeyed, nobody frames the page. The policy for referrers
#: is not `no-referrer`: with that one a browser hides the origin of a form.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

TOO_MANY = "Too many wrong passwords: wait a minute.\n"

READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class Place:
    """Where the page listens, and how browsers reach it (`url`, where a proxy stands before it)."""

    host: str
    url: str | None = None

    @property
    def is_this_machine(self) -> bool:
        """Whether nobody else reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def knows(self, host: str) -> bool:
        """Whether a request for this host is meant for us. From elsewhere any name may lead here: see the password."""
        if not self.is_this_machine:
            return True
        own = _parts(self.url).hostname if self.url is not None else None
        return _parts(f"//{host}").hostname in {"localhost", "127.0.0.1", "::1", self.host, own} - {None}

    def is_own(self, origin: str, host: str) -> bool:
        """Whether a page of ours has sent this: its origin is the host that was asked, or the one of `url`."""
        return bool(_parts(origin).netloc) and (_parts(origin).netloc == host or origin == self.url)


def _parts(url: str) -> SplitResult:
    """Nothing, for what is no URL."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


class Guard:
    """Refuses what may not be, and puts the session into `request.state`; None without a password."""

    def __init__(
        self, app: ASGIApp, *, place: Place, sessions: Sessions | None, public: Collection[str], health: Collection[str]
    ) -> None:
        self._app = app
        self._place = place
        self._sessions = sessions
        self._public = frozenset(public)
        self._health = frozenset(health)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        request.state.session = None
        if request.scope["path"] in self._health and request.method in READING:
            return None  # whoever probes does so by an address
        host = request.headers.get("host", "")
        if not self._place.knows(host):
            return PlainTextResponse("This page does not answer to that name: see CONSOLE_URL.\n", 421)
        if self._is_foreign(request, host):
            return PlainTextResponse("Another site has sent this.\n", 403)
        if request.method not in READING and self._sessions is None:
            return PlainTextResponse("Read-only: set CONSOLE_PASSWORD to change anything here.\n", 403)
        return self._without_password(request, self._sessions) if self._sessions is not None else None

    def _is_foreign(self, request: Request, host: str) -> bool:
        """A navigation from elsewhere that only reads is a link to us; nothing else from elsewhere is meant well."""
        if request.method not in READING:
            return not self._place.is_own(request.headers.get("origin", ""), host)
        site, mode = (request.headers.get(f"sec-fetch-{name}", "") for name in ("site", "mode"))
        return site in {"cross-site", "same-site"} and mode != "navigate"

    def _without_password(self, request: Request, sessions: Sessions) -> Response | None:
        session = request.state.session = sessions.find(request.cookies.get(COOKIE, ""))
        path = request.scope["path"]  # not that of `url`, which a Host header has a part in
        if session is not None or path in self._public or path.startswith("/static/"):
            return None
        if request.method in READING and (typed := _basic(request)) is not None:
            return _of_a_program(sessions, typed)
        if request.method in READING and path != "/events":
            return RedirectResponse("/login", 303)
        return PlainTextResponse("Log in first.\n", 401)


def _of_a_program(sessions: Sessions, typed: str) -> Response | None:
    """HTTP Basic, for programs that read."""
    try:
        return None if sessions.is_right(typed) else PlainTextResponse("Wrong password.\n", 401)
    except TooManyGuesses:
        return PlainTextResponse(TOO_MANY, 429, {"Retry-After": "60"})


def _basic(request: Request) -> str | None:
    """The password of HTTP Basic, of whatever user."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
