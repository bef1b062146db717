"""What settings that are right by themselves say against each other, and against what the providers are known to be.

A text says what to do, and never repeats what was given.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from gateway.model_names import bare, resolve
from gateway.settings.fields import Settings
from gateway.settings.keys import KeysFile, placeholder

#: The fields, the one to change first, and what to do.
Conflict = tuple[tuple[str, ...], str]

_OPENROUTER, _GOOGLE = "openrouter.ai", "generativelanguage.googleapis.com"
_KEYS = (
    *("openrouter_api_keys", "openrouter_api_key", "openrouter_api_keys_file"),
    *("gemini_api_keys", "gemini_api_keys_file"),
)

#: `vendor/name:variant`, `~vendor/name`, `@preset/name`, a name with a preset behind it, and bare names, of which only
#: OpenRouter knows whether there are such. Not LiteLLM's `openrouter/vendor/name`, nor Vertex'
#: `publishers/google/models/name`.
_OF_OPENROUTER: Final = re.compile(r"[^/\s]+(/[^/\s]+)?(@preset/[^/\s]+)?")


def conflicts(settings: Settings, *, need_keys: bool) -> Iterator[Conflict]:
    """What cannot work; the bridge calls no provider and so needs no keys."""
    if settings.request_queue == settings.response_queue:
        yield (
            ("response_queue", "request_queue"),
            "the same as REQUEST_QUEUE, answers would come back as requests: give another queue",
        )
    needed_s = settings.longest_schedule_s()
    if 0 < settings.ledger_ttl_seconds <= needed_s:
        yield (
            ("ledger_ttl_seconds", "queue_retry_delays", "queue_max_retries", "upstream_retry_delays"),
            f"an answer would be forgotten before the waits end: give more than {needed_s:.15g}, or 0 for no ledger",
        )
    if need_keys and not settings.keys:
        yield (
            _KEYS,
            "no key is set: give at least one, separated by commas (or GEMINI_API_KEYS, to call Gemini directly)",
        )
    if settings.budget_usd_per_day is not None and settings.uses_gemini:
        yield ("budget_usd_per_day", *_KEYS), "Gemini does not say what a call costs, so it would never be spent"
    yield from _certificates(settings)
    yield from _placeholders(settings)
    yield from _of_gemini(settings) if settings.uses_gemini else _of_openrouter(settings)


def _certificates(settings: Settings) -> Iterator[Conflict]:
    amqp = urlsplit(settings.rabbitmq_url.get_secret_value())
    if settings.rabbitmq_ca_file and amqp.scheme != "amqps":
        yield ("rabbitmq_ca_file", "rabbitmq_url"), "RABBITMQ_URL asks for no TLS: let it begin with amqps://"
    elif settings.rabbitmq_ca_file and "ssl_options" in amqp.query:
        yield ("rabbitmq_ca_file", "rabbitmq_url"), "RABBITMQ_URL has ssl_options: name the file there, as ca_certs"
    redis = urlsplit(settings.redis_url.get_secret_value()).scheme if settings.redis_url is not None else None
    if settings.redis_ca_file and redis not in {"rediss", None}:
        yield ("redis_ca_file", "redis_url"), "REDIS_URL asks for no TLS: let it begin with rediss://"


def _placeholders(settings: Settings) -> Iterator[Conflict]:
    """A stand-in may have keys by any name."""
    for field, base_url, domain in (
        ("openrouter_api_keys", "openrouter_base_url", _OPENROUTER),
        ("openrouter_api_key", "openrouter_base_url", _OPENROUTER),
        ("openrouter_api_keys_file", "openrouter_base_url", _OPENROUTER),
        ("gemini_api_keys", "gemini_base_url", _GOOGLE),
        ("gemini_api_keys_file", "gemini_base_url", _GOOGLE),
    ):
        if not _belongs(urlsplit(getattr(settings, base_url)).hostname, domain):
            continue
        given = getattr(settings, field)
        if (text := placeholder(given.keys if isinstance(given, KeysFile) else given or ())) is not None:
            yield (field,), text


def _of_openrouter(settings: Settings) -> Iterator[Conflict]:
    url = urlsplit(settings.openrouter_base_url)
    if not _belongs(url.hostname, _OPENROUTER):
        return  # a stand-in has addresses, names and keys of its own
    if url.scheme != "https" or not re.fullmatch(r"/api/v\d+", url.path):
        yield ("openrouter_base_url",), f"OpenRouter's API is at https://{url.hostname}/api/v1: give that, and no more"
    if any(key.reveal().startswith("AIza") for key in settings.openrouter_keys):
        yield (
            ("openrouter_api_keys", "openrouter_api_key", "openrouter_api_keys_file"),
            "one is a key of Google's own API: give it in GEMINI_API_KEYS",
        )
    yield from _models(settings, "openrouter_model", _OF_OPENROUTER, "OpenRouter's are vendor/name")


def _of_gemini(settings: Settings) -> Iterator[Conflict]:
    url = urlsplit(settings.gemini_base_url)
    if not _belongs(url.hostname, _GOOGLE):
        return
    if url.scheme != "https" or url.path:
        yield ("gemini_base_url",), f"give https://{_GOOGLE} without the version, which is added"
    if any(key.reveal().startswith("sk-or-") for key in settings.gemini_keys):
        yield ("gemini_api_keys", "gemini_api_keys_file"), "one is a key of OpenRouter: give it in OPENROUTER_API_KEYS"
    yield from _models(
        settings, "gemini_model_text", re.compile(r"[^/:\s]+"), "Google's are gemini-…, without a vendor"
    )


def _models(settings: Settings, field: str, form: re.Pattern[str], advice: str) -> Iterator[Conflict]:
    """The default and what aliases stand for, where the provider has no names of that form."""
    default: str = getattr(settings, field)
    for setting, name in [(field, None), *(("model_aliases", alias) for alias in settings.model_aliases)]:
        model = resolve(name, aliases=settings.model_aliases, default=default)
        if not form.fullmatch(bare(model) if settings.uses_gemini else model):
            yield (setting, field, *_KEYS), f"names a model in another provider's form: {advice}"
            if setting == field:
                return  # the aliases may mean this one


def _belongs(host: str | None, domain: str) -> bool:
    return host == domain or (host or "").endswith(f".{domain}")
