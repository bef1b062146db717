"""What an operator should know of settings that can be used: said once, at the start of a worker. Pure."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from gateway.settings.fields import Settings

#: Of a connection to RabbitMQ, in seconds: `?heartbeat=` may choose within them. A peer that is frozen or gone is
#: noticed after about two, and service has to go on within twenty seconds.
SHORTEST_HEARTBEAT_S, LONGEST_HEARTBEAT_S = 1, 10

#: What pika would take from a URL, and the worker decides by itself: how it waits, and how often it tries.
OVERRULED: Final = frozenset(
    {"blocked_connection_timeout", "client_properties", "connection_attempts", "retry_delay"}
    | {"socket_timeout", "stack_timeout"}
)


def remarks(settings: Settings) -> Iterator[str]:
    """A sentence with a remedy for each; none repeats a value."""
    yield from _about_rabbitmq(dict(parse_qsl(urlsplit(settings.rabbitmq_url.get_secret_value()).query)))
    redis = urlsplit(settings.redis_address or "")
    if redis.scheme == "rediss" and dict(parse_qsl(redis.query)).get("ssl_cert_reqs") == "none":
        yield (
            "REDIS_URL: its certificate is not verified, so whoever is on the way could pose as the server; "
            "where its authority is known, give REDIS_CA_FILE and REDIS_TLS_VERIFY=true"
        )
    if settings.interactive_reserve and settings.keys_max_per_minute == 1:
        yield "INTERACTIVE_RESERVE: of one call in a window nothing can be kept: it has no effect; give more keys"
    if settings.provider_proxy is not None and urlsplit(settings.provider_base_url).scheme == "http":
        name = "GEMINI_BASE_URL" if settings.uses_gemini else "OPENROUTER_BASE_URL"
        yield (
            f"{name} begins with http:// and is called through HTTP_PROXY, which reads keys and prompts: "
            "give https://, or name its host in NO_PROXY"
        )


def _about_rabbitmq(options: dict[str, str]) -> Iterator[str]:
    beat = options.get("heartbeat", "")
    if beat.isdecimal() and not SHORTEST_HEARTBEAT_S <= int(beat) <= LONGEST_HEARTBEAT_S:
        yield (
            f"RABBITMQ_URL: heartbeat has to be {SHORTEST_HEARTBEAT_S} to {LONGEST_HEARTBEAT_S} seconds, else a server "
            f"that is gone is noticed too late: {LONGEST_HEARTBEAT_S} is used"
        )
    if ignored := sorted(OVERRULED & options.keys()):
        yield f"RABBITMQ_URL: {', '.join(ignored)} is not used, the worker has its own: take it out"
