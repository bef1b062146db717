"""The HTTP routes: the providers' own, and `/_fake` for whoever drives the stand-in."""

import asyncio
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fake_openrouter import gemini, openrouter
from fake_openrouter.delivery import Delivery, Wait, unless_gone
from fake_openrouter.gates import Gates
from fake_openrouter.limits import Windows
from fake_openrouter.provider import Answer, NotUnderstood, Provider, reply
from fake_openrouter.record import Call, Record
from fake_openrouter.script import ORDINARY, Behaviour, Script

_LONGEST_POLL_S = 300.0


@dataclass
class Fake:
    """A provider with these keys (none: any key will do); each answer takes `latency_s` seconds."""

    keys: Collection[str]
    windows: Windows
    latency_s: float = 0.0
    record: Record = field(default_factory=Record)
    script: Script = field(default_factory=Script)
    gates: Gates = field(default_factory=Gates)
    hanging: Gates = field(default_factory=Gates)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/api/v1/key", self.key, methods=["GET"]),
                Route("/api/v1/models", self.models, methods=["GET"]),
                Route("/v1beta/models/{model}:generateContent", self.generate, methods=["POST"]),
                Route("/v1beta/models/{model}:streamGenerateContent", self.generate, methods=["POST"]),
                Route("/v1beta/models", self.gemini_models, methods=["GET"]),
                Route("/_fake/script", self.set_script, methods=["POST"]),
                Route("/_fake/gates/{name:path}/open", self.open_gate, methods=["POST"]),
                Route("/_fake/release", self.release, methods=["POST"]),
                Route("/_fake/reset", self.reset, methods=["POST"]),
                Route("/_fake/calls", self.calls, methods=["GET"]),
                Route("/_fake/stats", self.stats, methods=["GET"]),
            ]
        )

    async def chat(self, request: Request) -> Response:
        return await self._call(request, openrouter.OpenRouter())

    async def generate(self, request: Request) -> Response:
        return await self._call(request, gemini.Gemini())

    async def key(self, request: Request) -> Response:
        key = openrouter.OpenRouter().key(request)
        if not self._knows(key):
            return _whole(openrouter.OpenRouter().error(401))
        return JSONResponse(openrouter.key_info(key))

    async def models(self, request: Request) -> Response:  # noqa: ARG002  (Starlette's signature)
        return JSONResponse(openrouter.models())

    async def gemini_models(self, request: Request) -> Response:
        if not self._knows(gemini.Gemini().key(request)):
            return _whole(gemini.Gemini().error(401))
        return JSONResponse(gemini.models())

    async def set_script(self, request: Request) -> Response:
        try:
            self.script.replace(await request.body())
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        return Response(status_code=204)

    async def open_gate(self, request: Request) -> Response:
        self.gates.open(request.path_params["name"])
        return Response(status_code=204)

    async def release(self, request: Request) -> Response:  # noqa: ARG002  (Starlette's signature)
        """Who hangs now gets the rest of the answer; who hangs later is not let go."""
        self.hanging.clear()
        return Response(status_code=204)

    async def reset(self, request: Request) -> Response:  # noqa: ARG002  (Starlette's signature)
        self.script.clear()
        self.windows.clear()
        self.record.clear()
        self.gates.clear()
        self.hanging.clear()
        return Response(status_code=204)

    async def calls(self, request: Request) -> Response:
        query = request.query_params
        try:
            since, wanted = int(query.get("since", 0)), int(query.get("wait_for", 0))
            timeout_s = min(float(query.get("timeout", 30)), _LONGEST_POLL_S)
        except ValueError:
            return JSONResponse({"error": "since, wait_for and timeout are numbers"}, 400)
        if wanted:
            await unless_gone(request.receive, self.record.wait_for(wanted, timeout_s))
        return JSONResponse(self.record.calls(since))

    async def stats(self, request: Request) -> Response:  # noqa: ARG002  (Starlette's signature)
        return JSONResponse({**self.record.stats(), "window_used": self.windows.used()})

    async def _call(self, request: Request, provider: Provider) -> Response:
        """Write the call down, admit it or not, and answer as the script says."""
        key = provider.key(request)
        call = self.record.begin(key, request.url.path, dict(request.headers))
        try:
            body = await request.body()
            answer, behaviour = self._decide(request, provider, call, key, body)
        except BaseException:
            self.record.arrived(call)
            self.record.end(call, aborted=True)
            raise
        call.generation_id, call.cost = answer.headers.get("X-Generation-Id"), answer.cost
        self.record.arrived(call)
        wait = self._wait(behaviour)
        return Delivery(self.record, call, answer, behaviour, wait=wait, passed=self.gates.passed)

    def _decide(
        self, request: Request, provider: Provider, call: Call, key: str, body: bytes
    ) -> tuple[Answer, Behaviour]:
        if not self._knows(key):
            return provider.error(401), ORDINARY
        try:
            call.body = _json(body)
            question = provider.question(request, call.body)
        except (NotUnderstood, ValueError) as error:
            return provider.error(400, str(error)), ORDINARY
        call.model, call.prompt = question.model, question.prompt
        if (refusal := self.windows.admit(key)) is not None:
            call.limited = True
            self.record.limited += 1
            return provider.limited(refusal), ORDINARY
        behaviour = self.script.behaviour(key, question.model, question.prompt)
        return reply(provider, question, behaviour), behaviour

    def _knows(self, key: str) -> bool:
        return key in self.keys if self.keys else bool(key)

    def _wait(self, behaviour: Behaviour) -> Wait | None:
        latency_s = self.latency_s if behaviour.latency_s is None else behaviour.latency_s
        delay_s = latency_s + behaviour.delay_s
        endless = behaviour.hang or (behaviour.whitespace and not (delay_s or behaviour.gate))
        if not (delay_s or endless or behaviour.gate):
            return None

        async def wait() -> None:
            await asyncio.sleep(delay_s)
            if behaviour.gate is not None:
                await self.gates.passed(behaviour.gate)
            if endless:
                await self.hanging.passed("hang")

        return wait


def _json(body: bytes) -> Any:
    """Raises ValueError for all that is no JSON, too deep nesting included."""
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))
