"""The types of settings that are URLs. Pure but for the files of certificates that a URL for RabbitMQ names.

A ValueError says what to give, and never repeats what was given: urllib's and pika's own errors repeat the password.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit

import pika
from pydantic import AfterValidator, SecretStr

_HTTP = frozenset({"http", "https"})
_ENCODED: Final = "; percent-encode what is special in a password, as %2F for /"

#: Of redis-py, as far as they are worth setting: https://redis.readthedocs.io/en/stable/connections.html
_REDIS_OPTIONS: Final = frozenset(
    {
        "db", "username", "password", "protocol", "client_name", "max_connections",
        "ssl_cert_reqs", "ssl_ca_certs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile", "ssl_password",
    }
)  # fmt: skip
_REQUIREMENTS: Final = ("none", "optional", "required")


def _split(url: str, schemes: frozenset[str], advice: str) -> SplitResult:
    """The parts of `url`, all of them readable."""
    try:
        parts = urlsplit(url)
        readable = url.isprintable() and parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        raise ValueError(advice)
    return parts


def _amqp(url: str) -> None:
    advice = "give amqp://user:password@host:port/vhost, or amqps:// for TLS"
    parts = _split(url, frozenset({"amqp", "amqps"}), advice + _ENCODED)
    if (parts.username is None) != (parts.password is None):
        raise ValueError(f"{advice}, with both user and password or neither")
    if "ssl_options" in parse_qs(parts.query, keep_blank_values=True) and parts.scheme == "amqp":
        raise ValueError("ssl_options belong to a URL that begins with amqps://")
    context = _tls_context(url)
    # pika verifies only with its own defaults; a `protocol` of one's own makes a context that accepts any certificate.
    if context and ("cert_reqs" in url or context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname):
        raise ValueError(
            "ssl_options switch the verification of certificates off: give only ca_certs, certfile, keyfile, password, "
            "ciphers or server_hostname"
        )


def _tls_context(url: str) -> ssl.SSLContext | None:
    """What pika would connect with; None without TLS."""
    try:
        options = pika.URLParameters(url).ssl_options
    except Exception:  # noqa: BLE001 - whatever pika makes of a bad value, its text repeats the value
        raise ValueError(
            "what follows the ? is not understood: give options of pika's URLParameters, as in ?heartbeat=5, "
            "and a certificate authority in RABBITMQ_CA_FILE"
        ) from None
    return options.context if options else None


def _http(url: str) -> str:
    url = url.strip()
    parts = _split(url, _HTTP, "give a URL that begins with https:// or http://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("give a URL without user, password, ? and #")
    return url.rstrip("/")


def _proxy(url: str) -> None:
    _split(url, _HTTP, "give http://user:password@host:port" + _ENCODED)


def _redis(url: str) -> None:
    if not url.startswith("unix://"):
        advice = "give redis://:password@host:port/0, or rediss:// for TLS"
        parts = _split(url, frozenset({"redis", "rediss"}), advice + _ENCODED)
        if not re.fullmatch(r"/*\d*/*", parts.path):  # redis-py takes anything else for 0
            raise ValueError(f"{advice}: what follows the / is the number of a database")
    options = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    if unknown := options.keys() - _REDIS_OPTIONS:
        known = ", ".join(sorted(_REDIS_OPTIONS))
        raise ValueError(f"{len(unknown)} of the options behind the ? are not understood: give only {known}")
    if _requirement(options) not in _REQUIREMENTS:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_REQUIREMENTS)}")
    if urlsplit(url).scheme != "rediss" and any(option.startswith("ssl_") for option in options):
        raise ValueError("ssl_ options belong to a URL that begins with rediss://")


def _requirement(options: Mapping[str, str]) -> str:
    """`none`, `optional` or `required`, which Celery calls `CERT_NONE` and so on."""
    return options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")


def with_redis_tls(url: str, ca_file: Path | None, *, verify: bool) -> str:
    """The URL with these terms of TLS; what it says of them itself has the last word."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if ca_file is not None:
        options.setdefault("ssl_ca_certs", str(ca_file))
    if not verify:
        options.setdefault("ssl_cert_reqs", "none")
    return parts._replace(query=urlencode({**options, "ssl_cert_reqs": _requirement(options)})).geturl()


def with_ca_file(url: str, ca_file: Path) -> str:
    """The URL with an authority of its own, in the form that pika reads."""
    parts = urlsplit(url)
    options = urlencode({"ssl_options": {"ca_certs": str(ca_file)}})
    return parts._replace(query="&".join(filter(None, [parts.query, options]))).geturl()


def _dsn(url: str) -> None:
    advice = "give the DSN that Sentry shows: https://<key>@<host>/<project number>"
    parts = _split(url, _HTTP, advice)
    if not parts.username or not parts.path.rpartition("/")[2].isdecimal():
        raise ValueError(advice)


def _secret(check: Callable[[str], None]) -> AfterValidator:
    """What `check` does not refuse, without blanks around it."""

    def checked(url: SecretStr) -> SecretStr:
        text = url.get_secret_value().strip()
        check(text)
        return SecretStr(text)

    return AfterValidator(checked)


HttpUrl = Annotated[str, AfterValidator(_http)]
AmqpUrl = Annotated[SecretStr, _secret(_amqp)]
ProxyUrl = Annotated[SecretStr, _secret(_proxy)]
RedisUrl = Annotated[SecretStr, _secret(_redis)]
SentryDsn = Annotated[SecretStr, _secret(_dsn)]
