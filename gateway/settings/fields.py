"""The settings: one frozen object, read once at boot and passed down.

Each field is the environment variable of the same name in upper case; `.env` in the working directory is read too, the
environment wins. An empty value counts as not set.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.errors import GatewayError
from gateway.secrets import ApiKey
from gateway.settings.values import (
    Aliases,
    AmqpUrl,
    Delays,
    HeaderText,
    HttpUrl,
    Keys,
    LowerCase,
    ModelName,
    Pattern,
    ProxyUrl,
    QueueName,
    RedisUrl,
    Seconds,
    SentryDsn,
    UpperCase,
)


class SettingsError(GatewayError):
    """The settings cannot be used; the text has a line for every problem, and no value that was given."""


class Settings(BaseSettings):
    """Every setting, with the reason for its default; no secret is in any textual form of it.

    Made by `load_settings`, which also checks the fields against each other.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    # RabbitMQ. The default is what a fresh local server takes; Heroku's add-on sets CLOUDAMQP_URL.
    rabbitmq_url: AmqpUrl = Field(
        default=SecretStr("amqp://guest:guest@localhost:5672/"),
        validation_alias=AliasChoices("RABBITMQ_URL", "CLOUDAMQP_URL"),
    )
    # None: the policies of the virtual host are not checked. It is asked with the user and password of RABBITMQ_URL.
    rabbitmq_management_url: HttpUrl | None = None
    # Both names are what the backends that exist use.
    request_queue: QueueName = "gemini.requests"
    response_queue: QueueName = "gemini.responses"
    # Requests that the bridge has fetched and not yet relayed: enough to keep the publisher's pipeline full.
    worker_prefetch_count: int = Field(default=100, ge=1, le=65535)
    # None: a callback queue may have any name that is not one of ours.
    callback_queue_pattern: Pattern | None = None

    # OpenRouter. There is no key to start from: whoever runs this pays.
    openrouter_api_keys: Keys = ()
    # One key under its usual name; comes after the above in `keys`.
    openrouter_api_key: Keys = Field(default=(), repr=False)
    openrouter_base_url: HttpUrl = "https://openrouter.ai/api/v1"
    # Cheap, fast, and what requests for `gemini-pro` have meant so far.
    openrouter_model: ModelName = "google/gemini-2.5-flash"
    # Optional for OpenRouter: they put a site on its rankings.
    openrouter_site_url: HttpUrl | None = None
    openrouter_site_name: HeaderText | None = None
    # Always sent: without a cap the account's in-flight budget is charged with the model's maximum.
    openrouter_max_tokens: int = Field(default=8192, ge=1)
    # `gemini-pro` and other bare names are mapped without an entry here.
    model_aliases: Aliases = {}
    # None: calls go out directly, whatever proxy the machine has for other programs.
    http_proxy: ProxyUrl | None = None
    # The whole call, from connecting to the last byte: reasoning models take a minute and more. The limit stays below
    # RabbitMQ's consumer_timeout of 30 minutes, which would take the request away from a running call.
    request_timeout_seconds: Seconds = Field(default=120.0, le=1200)

    # Gemini directly, for older installations: used when there is no OpenRouter key.
    gemini_api_keys: Keys = ()
    gemini_model_text: ModelName = "gemini-2.5-flash"
    gemini_base_url: HttpUrl = "https://generativelanguage.googleapis.com"

    # Ten a minute is what a free key has; a limit too low costs time, one too high costs 429s.
    keys_max_per_minute: int = Field(default=10, ge=1)
    # A minute, as the name above says; tests shorten it.
    keys_window_seconds: Seconds = 60.0
    # For a 429 that states no wait: by then a window of a minute has passed.
    keys_cooldown_seconds: Seconds = 60.0
    # 0: no limit. Providers limit calls a minute; one that limits calls at a time says so with 429s.
    keys_max_in_flight: int = Field(default=0, ge=0)

    # Waits for a key: a minute, ten minutes, an hour, a day; by then every known limit has been reset once.
    queue_retry_delays: Delays = (60.0, 600.0, 3600.0, 86400.0)
    # Each delay once.
    queue_max_retries: int = Field(default=4, ge=0, le=1000)
    # On: a burst on one key is answered in minutes; off: it meets the plain schedule.
    queue_early_release: bool = True
    # Waits for a provider at fault: most faults are over in a minute.
    upstream_retry_delays: Delays = (2.0, 10.0, 60.0)

    # Redis serves any number of machines; None: the file below serves the processes of one.
    redis_url: RedisUrl | None = None
    # Beside the code, out of version control.
    state_path: Path = Path(".state/worker.sqlite3")
    # Two days: longer than the whole schedule, so that no redelivery finds its entry gone. 0 switches the ledger off.
    ledger_ttl_seconds: float = Field(default=172_800.0, ge=0, allow_inf_nan=False)

    # INFO tells each request in a handful of lines.
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], UpperCase] = "INFO"
    # Text for people; platforms that parse lines want json.
    log_format: Annotated[Literal["text", "json"], LowerCase] = "text"
    # None: nothing is sent.
    sentry_dsn: SentryDsn | None = None
    # What Sentry itself assumes.
    sentry_environment: str = "production"
    # Traces cost money and answer no question that the log does not.
    sentry_traces_sample_rate: float = Field(default=0.0, ge=0, le=1)

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys in use: OpenRouter's, else Gemini's."""
        return tuple(dict.fromkeys(self.openrouter_api_keys + self.openrouter_api_key)) or self.gemini_api_keys

    @property
    def uses_gemini(self) -> bool:
        """True when requests go to Gemini directly."""
        return not (self.openrouter_api_keys or self.openrouter_api_key) and bool(self.gemini_api_keys)

    def retry_delay_s(self, retry_count: int) -> float | None:
        """Seconds of the wait for a key after `retry_count` waits; None when they are used up.

        The last delay repeats when QUEUE_MAX_RETRIES asks for more waits than there are delays.
        """
        if retry_count >= self.queue_max_retries:
            return None
        return self.queue_retry_delays[min(retry_count, len(self.queue_retry_delays) - 1)]

    def upstream_delay_s(self, retries: int) -> float | None:
        """Seconds of the wait for a provider at fault after `retries` waits; None when they are used up."""
        return self.upstream_retry_delays[retries] if retries < len(self.upstream_retry_delays) else None

    def longest_schedule_s(self) -> float:
        """Seconds that a request can spend in waits before its error envelope."""
        waits = [self.retry_delay_s(count) or 0.0 for count in range(self.queue_max_retries)]
        return sum(waits) + sum(self.upstream_retry_delays)

    def secrets(self) -> list[str]:
        """Every secret among the settings, for the filters that mask them."""
        found = [key.reveal() for key in self.openrouter_api_keys + self.openrouter_api_key + self.gemini_api_keys]
        for url in (self.rabbitmq_url, self.redis_url, self.http_proxy):
            found += _passwords(url)
        if self.sentry_dsn is not None:
            found.append(urlsplit(self.sentry_dsn.get_secret_value()).username or "")
        return list(dict.fromkeys(found))


def load_settings(*, need_keys: bool = True) -> Settings:
    """The settings of this process. Raises SettingsError that names every problem at once.

    The bridge calls no provider and so needs no keys.
    """
    settings, problems = _read()
    checks = _CHECKS if need_keys else _CHECKS[:-1]
    for check in checks:
        # A field that has a problem of its own holds its default here: it says nothing about the others.
        if not check.fields & problems.keys() and (text := check.problem(settings)) is not None:
            problems[check.name] = text
    if problems:
        lines = [f"  {name.upper()}: {text}" for name, text in problems.items()]
        raise SettingsError("\n".join(["The settings cannot be used:", *lines]))
    return settings


def _read() -> tuple[Settings, dict[str, str]]:
    """The settings, with defaults in place of what cannot be used, and what is wrong with that, by field."""
    try:
        return Settings(), {}
    except ValidationError as error:
        faults = {str(fault["loc"][0]).lower(): fault for fault in error.errors(include_input=False)}
    except (OSError, UnicodeDecodeError):
        return Settings(_env_file=None), {".env": "cannot be read: give a text file in UTF-8, readable for this user"}
    given = {str(fault["loc"][0]): Settings.model_fields[name].default for name, fault in faults.items()}
    return Settings(**given), {name: _explain(name, fault) for name, fault in faults.items()}


#: What to do about pydantic's own faults; its texts are for programmers.
_ADVICE = {
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "bool_parsing": "give true or false",
    "finite_number": "give a finite number",
    "greater_than": "give a number above {gt}",
    "greater_than_equal": "give a number from {ge} on",
    "less_than_equal": "give a number up to {le}",
    "literal_error": "give {expected}",
}


def _explain(name: str, fault: ErrorDetails) -> str:
    facts: dict[str, Any] = fault.get("ctx", {})
    text = str(facts["error"]) if "error" in facts else _ADVICE.get(fault["type"], "give another value").format(**facts)
    if name == "rabbitmq_url":
        text += " (in RABBITMQ_URL, else CLOUDAMQP_URL)"
    return f"{text}; or leave it out{_default(name)}"


def _default(name: str) -> str:
    default = Settings.model_fields[name].default
    if isinstance(default, SecretStr) or not default:
        return ""
    return " for " + (",".join(f"{delay:g}" for delay in default) if isinstance(default, tuple) else str(default))


def _passwords(url: SecretStr | None) -> Iterator[str]:
    """The password of a URL as it stands there and as it is, unless it is public: guest:guest, redis:redis."""
    if url is None:
        return
    parts = urlsplit(url.get_secret_value())
    # Masking a password that is the user's name would mask every "guest" in the logs.
    if parts.password and parts.password != parts.username:
        yield from (parts.password, unquote(parts.password))


@dataclass(frozen=True, slots=True)
class _Check:
    """A rule about several fields; its problem is reported under `name`."""

    name: str
    fields: frozenset[str]
    problem: Callable[[Settings], str | None]


def _two_queues(settings: Settings) -> str | None:
    if settings.request_queue != settings.response_queue:
        return None
    return "the same as REQUEST_QUEUE, answers would come back as requests: give another queue"


def _ledger_lives_long_enough(settings: Settings) -> str | None:
    needed_s = settings.longest_schedule_s()
    if settings.ledger_ttl_seconds == 0 or settings.ledger_ttl_seconds > needed_s:
        return None
    return f"an answer would be forgotten before the waits end: give more than {needed_s:.15g}, or 0 for no ledger"


def _some_key(settings: Settings) -> str | None:
    if settings.keys:
        return None
    return "no key is set: give at least one, separated by commas (or GEMINI_API_KEYS, to call Gemini directly)"


_KEY_FIELDS = frozenset({"openrouter_api_keys", "openrouter_api_key", "gemini_api_keys"})
_SCHEDULE_FIELDS = frozenset({"ledger_ttl_seconds", "queue_retry_delays", "queue_max_retries", "upstream_retry_delays"})

#: The last one is for those who call a provider.
_CHECKS = (
    _Check("response_queue", frozenset({"request_queue", "response_queue"}), _two_queues),
    _Check("ledger_ttl_seconds", _SCHEDULE_FIELDS, _ledger_lives_long_enough),
    _Check("openrouter_api_keys", _KEY_FIELDS, _some_key),
)
