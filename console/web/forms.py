"""Forms: read within bounds, and obeyed only with the token of the session that they were made for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

#: The longest form, in bytes, how long it may take to come, in seconds, and how many fields it may have.
LONGEST_FORM, FORM_S, MOST_FIELDS = 4096, 10.0, 10

Form = Mapping[str, str]
Handler = Callable[[Request], Awaitable[Response]]


def changing(handler: Callable[[Request, Form], Awaitable[Response]]) -> Handler:
    """For what changes something: a form with the token of this session, or nothing happens."""

    async def checked(request: Request) -> Response:
        form, session = await read(request), request.state.session
        if form is None or session is None or not session.made(form.get("csrf", "")):
            return PlainTextResponse("This is no form of this session: load the page again.\n", 403)
        return await handler(request, form)

    return checked


async def read(request: Request) -> Form | None:
    """The fields of a form, None when it is none of ours."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return None
    try:
        async with asyncio.timeout(FORM_S):
            body = await _bounded(request)
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=MOST_FIELDS)
    except (TimeoutError, ClientDisconnect, ValueError):
        return None
    return {name: values[0] for name, values in fields.items()}


async def _bounded(request: Request) -> bytes:
    """The body. Raises ValueError when it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise ValueError("too long a form")
    return body
