"""Dead letters by reason, the dry run of a group, and what became of it."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from pika.exceptions import AMQPError
from starlette.requests import Request
from starlette.responses import Response

from console.dead.queues import gone
from console.web.drawing import Drawing
from console.web.forms import Form
from console.web.letters import Letters
from gateway.errors import GatewayError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class LetterPages:
    """Nothing is sent but by `send`, and that sends what a dry run has shown."""

    def __init__(self, drawing: Drawing, letters: Letters) -> None:
        self._drawing = drawing
        self._letters = letters
        self._asking = asyncio.Lock()

    async def dead(self, request: Request) -> Response:
        survey = await self._asked(self._letters.survey)
        if isinstance(survey, GatewayError):
            return self._without(request, str(survey))
        return self._drawing.html(request, "dead.html", survey=survey, trouble=None)

    async def plan(self, request: Request, form: Form) -> Response:
        plan = await self._asked(partial(self._letters.plan, form.get("group", "")))
        if isinstance(plan, GatewayError):
            return self._without(request, str(plan))
        return self._drawing.html(request, "plan.html", plan=plan)

    async def send(self, request: Request, form: Form) -> Response:
        sent = await self._asked(partial(self._letters.send, form.get("plan", "")))
        if isinstance(sent, GatewayError):
            return self._without(request, f"{sent}. What was confirmed has gone; look again")
        if sent is not None:
            logger.warning("Sent again from the page: %s", sent.targets)
        return self._drawing.html(request, "sent.html", status=409 if sent is None else 200, sent=sent)

    def _without(self, request: Request, trouble: str) -> Response:
        """RabbitMQ cannot be asked."""
        return self._drawing.html(request, "dead.html", status=503, survey=None, trouble=trouble)

    async def _asked(self, question: Callable[[], T]) -> T | GatewayError:
        """The answer of RabbitMQ, or the error as one line; on a thread, one at a time: others are for the figures."""
        try:
            async with self._asking:
                return await asyncio.to_thread(question)
        except AMQPError as error:
            return gone(error)
        except GatewayError as error:
            return error
