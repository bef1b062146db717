"""The settings: one frozen object, read once at boot and passed down.

Each field is the environment variable of the same name in upper case, and in no other: the `http_proxy` of a machine is
not ours. `.env` in the working directory is read too, the environment wins. Quotes around a value are taken off, and an
empty value counts as not set.

The text under a field is what everybody reads about it: `script/settings` writes docs/settings.md, .env.example and
app.json from these.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AliasChoices, AliasGenerator, Field, SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.secrets import ApiKey
from gateway.settings.keys import FileOfKeys, Keys, KeysFile
from gateway.settings.no_proxy import is_direct
from gateway.settings.quotes import unquoted
from gateway.settings.urls import AmqpUrl, HttpUrl, ProxyUrl, RedisUrl, SentryDsn, with_ca_file, with_redis_tls
from gateway.settings.values import (
    Aliases,
    CaFile,
    Delays,
    FieldName,
    HeaderText,
    LowerCase,
    ModelName,
    OwnFile,
    Password,
    Pattern,
    QueueName,
    Seconds,
    UpperCase,
)


class Settings(BaseSettings):
    """Every setting, with the reason for its default; no secret is in any textual form of it.

    Made by `load_settings`, which also checks the fields against each other.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        case_sensitive=True,
        alias_generator=AliasGenerator(validation_alias=str.upper),
        populate_by_name=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (pydantic's signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (pydantic's signature)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is fixed, the environment, `.env`; of the latter two names in upper case, and text without quotes."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                found = {name: unquoted(value or "") for name, value in source.env_vars.items() if name.isupper()}
                source.env_vars = {name: value for name, value in found.items() if value}
        return init_settings, env_settings, dotenv_settings

    rabbitmq_url: AmqpUrl = Field(
        default=SecretStr("amqp://guest:guest@localhost:5672/"),
        validation_alias=AliasChoices("RABBITMQ_URL", "CLOUDAMQP_URL"),
    )
    """Where RabbitMQ is; `amqps://` for TLS. Percent-encode what is special in a password, as `%2F` for `/`. Without it
    `CLOUDAMQP_URL` is used, which Heroku's add-on sets; without both, what a fresh local server takes. `?heartbeat=`
    may be 1 to 10 seconds, else it is 10: a server that is gone is noticed after two of them. Timeouts and tries are
    the worker's own."""

    rabbitmq_ca_file: CaFile | None = None
    """The certificate authority of a RabbitMQ whose certificate no public one has signed: a PEM file. Only its
    signatures are accepted then. Verification cannot be switched off."""

    rabbitmq_management_url: HttpUrl | None = None
    """When set, a worker warns at its start of policies that would lose messages. It is asked with the user and
    password of `RABBITMQ_URL`. For example: `http://localhost:15672`"""

    request_queue: QueueName = "gemini.requests"
    """Where requests come from. The default is what existing backends use."""

    response_queue: QueueName = "gemini.responses"
    """Where answers go when a request names no queue. The default is what existing backends use."""

    callback_queue_pattern: Pattern | None = None
    r"""A regular expression that callback queues have to match as a whole. Without it any queue that is not the
    worker's own will do. For example: `backend\.responses\..*`"""

    callback_queue_create: bool = False
    """Make a callback queue that is missing, durable, beside the answers of others. `false`: an answer is held in
    `gemini.callbacks` until its queue is there, and lies in `gemini.generate.dead` after about a day. `RESPONSE_QUEUE`
    is always made, the queue of a client that waits (`reply_to`) never."""

    parameters_unknown: Annotated[Literal["refuse", "ignore"], LowerCase] = "refuse"
    """What becomes of a request with an unknown name in `parameters`. `refuse`: it is answered with an error that says
    what may have been meant; an answer without what was asked for would be paid for all the same. `ignore` leaves the
    name out, for old producers."""

    worker_prefetch_count: int = Field(default=100, ge=1, le=65535)
    """Only for `python -m bridge`: requests that it has fetched and not yet relayed, enough to keep its publisher busy.
    A worker holds as many requests as it has threads."""

    openrouter_api_keys: Keys = ()
    """One or more OpenRouter keys, separated by commas. `label=key` names the account of a key; without labels the
    worker asks OpenRouter which keys are of one user."""

    openrouter_api_key: Keys = ()
    """One key under its usual name; counts as one more."""

    openrouter_api_keys_file: FileOfKeys | None = None
    """A file with OpenRouter keys, one on each line, `label=key` or `key`; lines that begin with `#` are remarks. They
    are added to those of the other two settings. The file is read again when it changes, without a restart: new keys
    are used within seconds, and those that are gone are not used any more. One that cannot be used changes nothing,
    and the log says why."""

    openrouter_base_url: HttpUrl = "https://openrouter.ai/api/v1"
    """Where OpenRouter's API is; another one for a stand-in. Without `/chat/completions`, which is added."""

    openrouter_model: ModelName = "google/gemini-2.5-flash"
    """For requests that name no model, or `gemini-pro`. The default is cheap and fast, and what `gemini-pro` has meant
    so far. A bare `gemini-…` is `google/gemini-…`, as in a request."""

    model_aliases: Aliases = {}
    """What to ask for when a request names the alias: `alias=model`, separated by commas, or a JSON object. With either
    provider. `gemini-pro` and other bare names are mapped without an entry here; a name with a vendor is never looked
    up. For example:
    `gemini-pro=google/gemini-2.5-pro,fast=google/gemini-2.5-flash-lite`"""

    openrouter_max_tokens: int = Field(default=8192, ge=1)
    """The cap on output tokens for requests that set none. One is always sent: without it OpenRouter charges the
    account's in-flight budget with the model's maximum."""

    openrouter_site_url: HttpUrl | None = None
    """Your site, sent as `HTTP-Referer`: OpenRouter's rankings show it."""

    openrouter_site_name: HeaderText | None = None
    """The name of your site, sent as `X-Title`."""

    http_proxy: ProxyUrl | None = None
    """For calls to the provider only, not for RabbitMQ or Sentry. Without it they go out directly, whatever proxy the
    machine has for other programs: a lower-case `http_proxy` and `HTTPS_PROXY` are not read. A provider with `https://`
    is reached through a tunnel (CONNECT), so the proxy sees neither key nor prompt. For example: `http://user:password@host:3128`"""

    no_proxy: str | None = None
    """Hosts that are called without `HTTP_PROXY`, separated by commas: a host and all below it, with a port or without,
    an address or a network, or `*`. For example: `.internal,gateway.example.org:8443,10.0.0.0/8`"""

    request_timeout_seconds: Seconds = Field(default=120.0, le=1200)
    """For a whole call, from connecting to the last byte: reasoning models take a minute and more. At most 1200, which
    is below RabbitMQ's `consumer_timeout` of 30 minutes: that would take the request away from a running call."""

    gemini_api_keys: Keys = ()
    """Keys of Google's own API, separated by commas."""

    gemini_api_keys_file: FileOfKeys | None = None
    """A file with keys of Google's own API, like `OPENROUTER_API_KEYS_FILE`."""

    gemini_model_text: ModelName = "gemini-2.5-flash"
    """For requests that name no model, or `gemini-pro`; with or without `models/` or `google/` in front."""

    gemini_base_url: HttpUrl = "https://generativelanguage.googleapis.com"
    """Where Google's API is; another one for a stand-in. Without `/v1beta`, which is added."""

    keys_max_per_minute: int = Field(default=10, ge=1)
    """Calls that a key may make in a window, which is a minute long. Ten is what a free key has; a limit too low costs
    time, one too high costs 429s."""

    keys_window_seconds: Seconds = 60.0
    """The length of that sliding window: a minute, as the name above says; tests shorten it."""

    keys_cooldown_seconds: Seconds = 60.0
    """How long a key rests after a 429 that does not say: by then a window of a minute has passed."""

    keys_max_in_flight: int = Field(default=0, ge=0)
    """Calls of one key that may run at a time, over all workers. `0`: any number; providers limit calls a minute, and
    one that limits calls at a time says so with 429s."""

    queue_retry_delays: Delays = (60.0, 600.0, 3600.0, 86400.0)
    """Waits for a key, in seconds: a minute, ten minutes, an hour, a day; by then every known limit has been reset
    once."""

    queue_max_retries: int = Field(default=4, ge=0, le=1000)
    """Waits for a key before the error: each delay once. The last one repeats when there are more waits than delays."""

    queue_early_release: bool = True
    """A wait ends as soon as a key is free: a burst on one key is answered in minutes. `false`: every wait has its full
    length."""

    upstream_retry_delays: Delays = (2.0, 10.0, 60.0)
    """Waits when the provider is at fault, in seconds: most faults are over in a minute."""

    batch_share: float = Field(default=0.1, ge=0, le=1, allow_inf_nan=False)
    """The part of what is served that is `batch` (`priority`) while interactive requests wait, too: so much keeps it
    from starving. `0`: it is served when nobody else waits; `1`: as if it were the other way round."""

    interactive_reserve: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    """The part of each key's window (`KEYS_MAX_PER_MINUTE`) that batch requests may not use, rounded up to whole calls,
    all but one at most: interactive ones find it free in the middle of a batch. `0`: batch may use all."""

    fairness_field: FieldName | None = None
    """The name of a field in `metadata`, such as `tenant`: requests that wait take turns by its value. Without it they
    are served in the order of their arrival."""

    redis_url: RedisUrl | None = None
    """Keys and answers of many machines, instead of the file of `STATE_PATH`; `rediss://` for TLS. For example:
    `redis://:password@host:6379/0`"""

    redis_ca_file: CaFile | None = None
    """The certificate authority of a Redis whose certificate no public one has signed: a PEM file."""

    redis_tls_verify: bool = True
    """Whether the certificate of a `rediss://` server is verified. `false` is what Heroku documents for its add-on,
    whose certificate is self-signed: encrypted, but whoever is on the way could pose as the server. `app.json` sets it
    for Heroku; where the authority is known, `REDIS_CA_FILE` is better."""

    state_path: OwnFile = Path(".state/worker.sqlite3")
    """Keys and answers of one machine, shared by its processes; beside the code, and out of version control. Signs of
    life for `gemini health` are beside it, with Redis as well."""

    ledger_ttl_seconds: float = Field(default=172_800.0, ge=0, allow_inf_nan=False)
    """How long an answer is remembered: two days. Longer than all waits together, so that no redelivery finds its entry
    gone; `0`: no ledger."""

    ledger_max_bytes: int = Field(default=256 * 1024 * 1024, ge=1_000_000)
    """How much room answers may take, in bytes. Beyond it the oldest of those that were delivered are forgotten before
    their time; so they are when a Redis is full, whatever its size."""

    budget_usd_per_day: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    """What calls may cost in a day (UTC), in US dollars, over all workers that share a store. At 80 % an operator is
    told; when it is spent, requests with `priority: batch` wait for the next day, and others are answered with the
    error `budget`. Only OpenRouter says what a call has cost. Without it there is no budget."""

    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], UpperCase] = "INFO"
    """`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`. `INFO` tells each request in a handful of lines."""

    log_format: Annotated[Literal["text", "json"], LowerCase] = "text"
    """`text` is for people. `json` is for platforms that parse lines: one object a line."""

    sentry_dsn: SentryDsn | None = None
    """Failures go to Sentry when set; prompts, answers and secrets never do."""

    sentry_environment: str = "production"
    """The environment that Sentry shows. The default is what Sentry itself assumes."""

    sentry_traces_sample_rate: float = Field(default=0.0, ge=0, le=1)
    """The share of traces that is sent, 0 to 1. Traces cost money and answer no question that the log does not."""

    console_password: Password | None = None
    """What somebody has to type to see the page and to change anything there, 12 characters or more. Without it the
    page is read-only, and listens on this machine only."""

    console_host: str = "127.0.0.1"
    """The address on which the page (`python -m console.web`) listens; `0.0.0.0` for every one, which needs a
    password."""

    console_port: int = Field(default=8321, ge=0, le=65535, validation_alias=AliasChoices("CONSOLE_PORT", "PORT"))
    """Its port. Without it `PORT` is used, which Heroku sets. `0`: any that is free."""

    console_url: HttpUrl | None = None
    """How browsers reach the page where a proxy stands before it; its host is accepted beside those of this machine.
    For example: `https://console.example.org`"""

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys in use: OpenRouter's, else Gemini's."""
        return self.openrouter_keys or self.gemini_keys

    @property
    def openrouter_keys(self) -> tuple[ApiKey, ...]:
        return _together(self.openrouter_api_keys + self.openrouter_api_key, self.openrouter_api_keys_file)

    @property
    def gemini_keys(self) -> tuple[ApiKey, ...]:
        return _together(self.gemini_api_keys, self.gemini_api_keys_file)

    @property
    def keys_file(self) -> Path | None:
        """The file that keys in use come from, if there is one."""
        file = self.gemini_api_keys_file if self.uses_gemini else self.openrouter_api_keys_file
        return file.path if file is not None else None

    @property
    def amqp_address(self) -> str:
        """RABBITMQ_URL with the authority of RABBITMQ_CA_FILE, as pika takes it."""
        url = self.rabbitmq_url.get_secret_value()
        return with_ca_file(url, self.rabbitmq_ca_file) if self.rabbitmq_ca_file else url

    @property
    def redis_address(self) -> str | None:
        """REDIS_URL with what REDIS_CA_FILE and REDIS_TLS_VERIFY say, as redis-py takes it."""
        if self.redis_url is None:
            return None
        return with_redis_tls(self.redis_url.get_secret_value(), self.redis_ca_file, verify=self.redis_tls_verify)

    @property
    def provider_base_url(self) -> str:
        """Where the provider in use is."""
        return self.gemini_base_url if self.uses_gemini else self.openrouter_base_url

    @property
    def provider_proxy(self) -> SecretStr | None:
        """The proxy of calls to the provider in use; None where NO_PROXY covers its host."""
        return None if is_direct(self.provider_base_url, self.no_proxy) else self.http_proxy

    @property
    def uses_gemini(self) -> bool:
        """True when requests go to Gemini directly."""
        return not self.openrouter_keys and bool(self.gemini_keys)

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
        found = [key.reveal() for key in self.openrouter_keys + self.gemini_keys]
        for url in (self.rabbitmq_url, self.redis_url, self.http_proxy):
            found += _passwords(url)
        if self.console_password is not None:
            found.append(self.console_password.get_secret_value())
        if self.sentry_dsn is not None:
            found.append(urlsplit(self.sentry_dsn.get_secret_value()).username or "")
        return list(dict.fromkeys(found))


def _together(keys: tuple[ApiKey, ...], file: KeysFile | None) -> tuple[ApiKey, ...]:
    """Each once."""
    return tuple(dict.fromkeys(keys + (file.keys if file is not None else ())))


def _passwords(url: SecretStr | None) -> Iterator[str]:
    """The password of a URL as it stands there and as it is, unless it is public: guest:guest, redis:redis."""
    if url is None:
        return
    parts = urlsplit(url.get_secret_value())
    yield from (value for name, value in parse_qsl(parts.query) if name in {"password", "ssl_password"})  # redis-py's
    # Masking a password that is the user's name would mask every "guest" in the logs.
    if parts.password and parts.password != parts.username:
        yield from (parts.password, unquote(parts.password))


def default_of(field: str) -> str:
    """The default of a field as one would type it; empty when there is none."""
    default = Settings.model_fields[field].default
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, tuple):
        return ",".join(f"{delay:g}" for delay in default)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:.15g}"
    return "" if default in (None, {}) else str(default)
