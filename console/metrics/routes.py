"""`/metrics`, `/healthz` and `/readyz`, to be mounted by whoever serves HTTP."""

import logging

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from console.metrics.collector import Look, Source, StateCollector
from console.state import build
from gateway.errors import StoreUnavailable

#: Those that a platform asks, which knows no password.
HEALTH = ("/healthz", "/readyz")

logger = logging.getLogger(__name__)


def routes(source: Source, look: Look = build) -> list[BaseRoute]:
    """The three; `look` builds the state, of what `source` gives or raises StoreUnavailable for."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(StateCollector(source, look))

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    def readyz(_request: Request) -> Response:
        return _ready(source)

    # No `async`: Starlette runs them on threads, and a store that is slow holds up no other page.
    return [Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)]


async def healthz(_request: Request) -> Response:
    """200 as long as this process serves; nobody else is asked."""
    return PlainTextResponse("ok\n")


def _ready(source: Source) -> Response:
    """200 when the store can be read, else 503: then there is nothing to show.

    A worker that is missing makes no page unready: it is what the page is there to show. How many there are is said.
    """
    try:
        seen = [one for one in source().stores.usage.processes() if one.lives]
    except StoreUnavailable as error:
        logger.warning("Not ready: %s", error)  # an answer to anybody names no server and no file
        return JSONResponse({"ready": False, "trouble": "the store cannot be read"}, status_code=503)
    ready = sum(one.process.not_ready is None for one in seen)
    return JSONResponse({"ready": True, "workers": len(seen), "workers_ready": ready})
