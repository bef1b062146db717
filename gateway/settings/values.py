"""The types of single settings: from the text of an environment variable to a checked value. Pure but for CA files.

A ValueError says what to give, and never repeats what was given: any of these texts could be a secret in the wrong
place.
"""

import json
import math
import re
import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import pika
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr
from pydantic_settings import NoDecode

from gateway.secrets import ApiKey

#: The longest wait that may be configured, in seconds: a week.
LONGEST_DELAY_S = 7 * 86400.0

#: The shortest one: RabbitMQ counts in milliseconds.
SHORTEST_DELAY_S = 0.001

#: How many waits a schedule may have; each distinct one is a queue.
MOST_DELAYS = 15

#: Names that the worker's own queues begin with, and so no other queue may have.
OWN_PREFIXES = ("gemini.generate", "gemini.callbacks", "gemini.requests.dead")

_KEY = re.compile(r"[!-+\--~]+")  # visible ASCII but the comma
_MODEL = re.compile(r"[!-~]{1,200}")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")
_HTTP = frozenset({"http", "https"})


def _keys(text: object) -> object:
    """`key`, `label=key`, comma-separated; one key of several spellings counts once."""
    if not isinstance(text, str):
        return text
    parts = [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(_key(part, number) for number, part in enumerate(parts, 1) if part))


def _key(part: str, number: int) -> ApiKey:
    label, _, value = part.rpartition("=")
    if not _KEY.fullmatch(value.strip()):
        raise ValueError(f"key number {number} has characters that no key has: remove spaces, quotes and line ends")
    return ApiKey(value.strip(), label=label.strip() or None)


def _delays(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("give seconds, separated by commas, as in 60,600,3600") from None


def _possible(delays: tuple[float, ...]) -> tuple[float, ...]:
    if not 1 <= len(delays) <= MOST_DELAYS or not all(SHORTEST_DELAY_S <= d <= LONGEST_DELAY_S for d in delays):
        raise ValueError(
            f"give 1 to {MOST_DELAYS} waits, each from {SHORTEST_DELAY_S} to {LONGEST_DELAY_S:.0f} seconds"
        )
    return delays


def _finite(seconds: float) -> float:
    if not math.isfinite(seconds):
        raise ValueError("give a finite number of seconds")
    return seconds


def _aliases(text: object) -> object:
    """A JSON object, or `alias=model` pairs separated by commas."""
    if not isinstance(text, str):
        return text
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else _pairs(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(
        isinstance(model, str) and alias and _MODEL.fullmatch(model) for alias, model in found.items()
    ):
        raise ValueError("give alias=model, separated by commas, or a JSON object of names")
    return found


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return {alias.strip(): model.strip() for alias, _, model in pairs}


def _model(name: str) -> str:
    if not _MODEL.fullmatch(name):
        raise ValueError("give the name of a model: up to 200 characters without spaces")
    return name


def _queue(name: str) -> str:
    name = name.strip()
    if not name or len(name.encode(errors="replace")) > 255 or _CONTROLS.search(name):  # noqa: PLR2004 - AMQP's limit
        raise ValueError("give the name of a queue: 1 to 255 bytes, no control characters")
    if name.startswith("amq."):
        raise ValueError("names that begin with amq. are reserved by RabbitMQ: give another one")
    if name.startswith(OWN_PREFIXES):
        raise ValueError(f"names that begin with {', '.join(OWN_PREFIXES)} are the worker's own: give another one")
    return name


def _header(text: str) -> str:
    if _CONTROLS.search(text):
        raise ValueError("give one line of text: it is sent as a header")
    return text.strip()


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError):
        raise ValueError(r"give a regular expression, as in backend\.responses\..*") from None
    return text


def _upper(text: object) -> object:
    return text.strip().upper() if isinstance(text, str) else text


def _lower(text: object) -> object:
    return text.strip().lower() if isinstance(text, str) else text


def _split(url: str, schemes: frozenset[str], advice: str) -> SplitResult:
    """The parts of `url`, all of them readable: urllib's own errors repeat the password."""
    try:
        parts = urlsplit(url.strip())
        readable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable or _CONTROLS.search(url):
        raise ValueError(f"{advice}; percent-encode what is special in a password, as %2F for /")
    return parts


def _amqp(url: SecretStr) -> SecretStr:
    advice = "give amqp://user:password@host:port/vhost, or amqps:// for TLS"
    text = url.get_secret_value().strip()
    parts = _split(text, frozenset({"amqp", "amqps"}), advice)
    if (parts.username is None) != (parts.password is None):
        raise ValueError(f"{advice}, with both user and password or neither")
    if "ssl_options" in parse_qs(parts.query, keep_blank_values=True) and parts.scheme == "amqp":
        raise ValueError("ssl_options belong to a URL that begins with amqps://")
    _check_verification(_pika_parameters(text), "cert_reqs" in text)
    return SecretStr(text)


def _pika_parameters(url: str) -> Any:
    try:
        return pika.URLParameters(url)
    except Exception:  # noqa: BLE001 - whatever pika makes of a bad value, its text repeats the value
        raise ValueError(
            "what follows the ? is not understood: give options of pika's URLParameters, as in ?heartbeat=20"
        ) from None


def _check_verification(parameters: Any, asks_for_less: bool) -> None:
    # pika verifies only with its own defaults; a `protocol` of one's own makes a context that accepts any certificate.
    options = parameters.ssl_options
    if options is None:
        return
    context = options.context
    if asks_for_less or context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError(
            "ssl_options switch the verification of certificates off: give only ca_certs, certfile, keyfile, password, "
            "ciphers or server_hostname"
        )


def _http(url: str) -> str:
    parts = _split(url, _HTTP, "give a URL that begins with https:// or http://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("give a URL without user, password, ? and #")
    return url.strip().rstrip("/")


def _proxy(url: SecretStr) -> SecretStr:
    _split(url.get_secret_value(), _HTTP, "give http://user:password@host:port")
    return SecretStr(url.get_secret_value().strip())


def _redis(url: SecretStr) -> SecretStr:
    text = url.get_secret_value().strip()
    if not text.startswith("unix://"):
        _split(text, frozenset({"redis", "rediss"}), "give redis://:password@host:port/0, or rediss:// for TLS")
    return SecretStr(text)


def _dsn(url: SecretStr) -> SecretStr:
    advice = "give the DSN that Sentry shows: https://<key>@<host>/<project number>"
    parts = _split(url.get_secret_value(), _HTTP, advice)
    if not parts.username or not parts.path.rpartition("/")[2].isdecimal():
        raise ValueError(advice)
    return SecretStr(url.get_secret_value().strip())


Keys = Annotated[tuple[Annotated[ApiKey, PlainSerializer(str, return_type=str)], ...], NoDecode, BeforeValidator(_keys)]
Delays = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_delays), AfterValidator(_possible)]
Aliases = Annotated[
    Mapping[str, str],
    NoDecode,
    BeforeValidator(_aliases),
    AfterValidator(MappingProxyType),
    PlainSerializer(dict, return_type=dict[str, str]),
]
Seconds = Annotated[float, AfterValidator(_finite), Field(gt=0)]
ModelName = Annotated[str, AfterValidator(_model)]
QueueName = Annotated[str, AfterValidator(_queue)]
HeaderText = Annotated[str, AfterValidator(_header)]
Pattern = Annotated[str, AfterValidator(_pattern)]
HttpUrl = Annotated[str, AfterValidator(_http)]
AmqpUrl = Annotated[SecretStr, AfterValidator(_amqp)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis)]
SentryDsn = Annotated[SecretStr, AfterValidator(_dsn)]
UpperCase = BeforeValidator(_upper)
LowerCase = BeforeValidator(_lower)
