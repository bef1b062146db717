"""The settings: one frozen object, read once at boot and passed down.

Each field is the environment variable of the same name in upper case; `.env` in the working directory is read too, the
environment wins. An empty value counts as not set.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.errors import GatewayError
from gateway.redaction import escape_controls
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


class SettingsError(GatewayError):
    """The settings cannot be used; the text has a line for every problem, and no secret."""


def _keys(text: object) -> object:
    """`key`, `label=key`, comma-separated; one key of several spellings counts once."""
    if not isinstance(text, str):
        return text
    parts = [part.strip() for part in text.split(",")]
    return tuple(dict.fromkeys(_key(part, number) for number, part in enumerate(parts, 1) if part))


def _key(part: str, number: int) -> ApiKey:
    label, _, value = part.rpartition("=")
    if not _KEY.fullmatch(value):
        raise ValueError(f"key number {number} has characters that no key has: remove spaces, quotes and line ends")
    return ApiKey(value, label=label.strip() or None)


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


def _aliases(text: object) -> object:
    """A JSON object, or `alias=model` pairs separated by commas."""
    if not isinstance(text, str):
        return text
    if text.lstrip().startswith("{"):
        return json.loads(text)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return {alias.strip(): model.strip() for alias, _, model in pairs}


def _queue(name: str) -> str:
    if len(name.encode()) > 255 or name.startswith("amq."):  # noqa: PLR2004 - the limit of AMQP
        raise ValueError("a queue name has at most 255 bytes and does not begin with amq.")
    if name.startswith(OWN_PREFIXES):
        raise ValueError("the worker has a queue of its own of that name")
    return name


def _amqp(url: SecretStr) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    if parts.scheme not in {"amqp", "amqps"} or not parts.hostname:
        raise ValueError("give amqp://user:password@host:port/vhost, or amqps:// for TLS")
    if "ssl_options" in parse_qs(parts.query):
        raise ValueError("ssl_options could switch the verification of certificates off: remove it from the URL")
    return url


def _http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("give a URL that begins with http:// or https://")
    return url.rstrip("/")


def _proxy(url: SecretStr) -> SecretStr:
    _http(url.get_secret_value())
    return url


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


Keys = Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_keys)]
Delays = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_delays), AfterValidator(_possible)]
Aliases = Annotated[Mapping[str, str], NoDecode, BeforeValidator(_aliases)]
QueueName = Annotated[str, AfterValidator(_queue)]
HttpUrl = Annotated[str, AfterValidator(_http)]


class Settings(BaseSettings):
    """Every setting, with the reason for its default; no secret is in any textual form of it."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    # RabbitMQ. The default is what a fresh local server takes; Heroku's add-on sets CLOUDAMQP_URL.
    rabbitmq_url: Annotated[SecretStr, AfterValidator(_amqp)] = Field(
        default=SecretStr("amqp://guest:guest@localhost:5672/"),
        validation_alias=AliasChoices("RABBITMQ_URL", "CLOUDAMQP_URL"),
    )
    request_queue: QueueName = "gemini.requests"
    response_queue: QueueName = "gemini.responses"
    # Requests that the bridge has fetched and not yet relayed: enough to keep the publisher's pipeline full.
    worker_prefetch_count: int = Field(default=100, ge=1, le=65535)
    # None: a callback queue may have any name that is not one of ours.
    callback_queue_pattern: Annotated[str, AfterValidator(_pattern)] | None = None

    # OpenRouter.
    openrouter_api_keys: Keys = ()
    openrouter_api_key: Keys = Field(default=(), repr=False)  # one key under its usual name; merged into the above
    openrouter_base_url: HttpUrl = "https://openrouter.ai/api/v1"
    openrouter_model: str = "google/gemini-2.5-flash"
    openrouter_site_url: str | None = None
    openrouter_site_name: str | None = None
    # Always sent: without a cap the account's in-flight budget is charged with the model's maximum.
    openrouter_max_tokens: int = Field(default=8192, ge=1)
    # `gemini-pro` and other bare names are mapped without an entry here.
    model_aliases: Aliases = {}
    http_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    # The whole call, from connecting to the last byte: reasoning models take a minute and more.
    request_timeout_seconds: float = Field(default=120.0, gt=0, le=1200)

    # Gemini directly, for older installations: used when there is no OpenRouter key.
    gemini_api_keys: Keys = ()
    gemini_model_text: str = "gemini-2.5-flash"
    gemini_base_url: HttpUrl = "https://generativelanguage.googleapis.com"

    # Keys. Ten a minute is what a free key has; a limit too low costs time, one too high costs 429s.
    keys_max_per_minute: int = Field(default=10, ge=1)
    keys_window_seconds: float = Field(default=60.0, gt=0)
    # For a 429 that states no wait.
    keys_cooldown_seconds: float = Field(default=60.0, gt=0)

    # Waits for a key: a minute, ten minutes, an hour, a day.
    queue_retry_delays: Delays = (60.0, 600.0, 3600.0, 86400.0)
    queue_max_retries: int = Field(default=4, ge=0, le=1000)
    queue_early_release: bool = True
    # Waits for a provider at fault: most faults are over in a minute.
    upstream_retry_delays: Delays = (2.0, 10.0, 60.0)

    # State: a file serves the processes of one machine, Redis any number of machines.
    redis_url: SecretStr | None = None
    state_path: Path = Path(".state/worker.sqlite3")
    # Two days: longer than the whole schedule, so that no redelivery finds its entry gone. 0 switches the ledger off.
    ledger_ttl_seconds: float = Field(default=172_800.0, ge=0)

    # What the process tells.
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    sentry_dsn: SecretStr | None = None
    sentry_environment: str = "production"
    sentry_traces_sample_rate: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _upper_case_level(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("log_level"), str):
            values["log_level"] = values["log_level"].upper()
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [problem for check in _CHECKS if (problem := check(self)) is not None]
        if problems:
            raise ValueError("\n".join(problems))
        return self

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
        urls = [url for url in (self.rabbitmq_url, self.redis_url, self.http_proxy, self.sentry_dsn) if url is not None]
        found += [urlsplit(url.get_secret_value()).password or "" for url in urls]
        if self.sentry_dsn is not None:
            found.append(urlsplit(self.sentry_dsn.get_secret_value()).username or "")
        # RabbitMQ's public default would mask every "guest" in the logs.
        return [secret for secret in found if secret and secret != "guest"]  # noqa: S105 - a public default


def load_settings(*, need_keys: bool = True) -> Settings:
    """The settings of this process. Raises SettingsError that names every problem at once.

    The bridge calls no provider and so needs no keys.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(_report(_problems(error))) from None
    except UnicodeDecodeError:
        raise SettingsError(_report([".env: not a text file in UTF-8"])) from None
    if need_keys and not settings.keys:
        raise SettingsError(
            _report(["OPENROUTER_API_KEYS: no key is set: give at least one, separated by commas, or GEMINI_API_KEYS"])
        )
    return settings


def _report(problems: Iterable[str]) -> str:
    return "The settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems)


def _problems(error: ValidationError) -> Iterable[str]:
    for fault in error.errors(include_input=False, include_url=False):
        text = str(fault["msg"]).removeprefix("Value error, ")
        if not fault["loc"]:
            yield from text.splitlines()
            continue
        yield f"{str(fault['loc'][0]).upper()}: {escape_controls(text)}"


def _two_queues(settings: Settings) -> str | None:
    if settings.request_queue == settings.response_queue:
        return "RESPONSE_QUEUE: the same as REQUEST_QUEUE: answers would come back as requests"
    return None


def _ledger_lives_long_enough(settings: Settings) -> str | None:
    needed_s = settings.longest_schedule_s()
    if 0 < settings.ledger_ttl_seconds < needed_s:
        return (
            f"LEDGER_TTL_SECONDS: shorter than the schedule of waits: give at least {needed_s:.0f}, or 0 for no ledger"
        )
    return None


_CHECKS: tuple[Callable[[Settings], str | None], ...] = (_two_queues, _ledger_lives_long_enough)
