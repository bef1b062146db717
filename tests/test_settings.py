"""The settings: what an operator may write, and what is said when that cannot be used."""

import re
import ssl
import string
import traceback
import warnings
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from pydantic import AliasChoices, ValidationError
from redis.connection import parse_url

from gateway.errors import GatewayError
from gateway.rabbitmq.amqp import parameters
from gateway.secrets import ApiKey
from gateway.settings import Settings, SettingsError, load_settings
from gateway.settings.keys import PLACEHOLDERS
from gateway.settings.remarks import remarks

EXAMPLE = Path(__file__).resolve().parent.parent / ".env.example"
KEY = "sk-or-v1-canary-key-1111"
#: Read by the Procfile's shell, not by the settings.
OF_THE_PROCFILE = {"WORKER_PROCESSES", "WORKER_THREADS"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to run in, and none of the settings of this machine."""
    for field in Settings.model_fields:
        for name in names_of(field):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Loads what an environment says, with a key unless it says otherwise."""

    def load(*, need_keys: bool = True, **environment: str) -> Settings:
        for name, value in {"OPENROUTER_API_KEYS": KEY, **environment}.items():
            monkeypatch.setenv(name, value)
        return load_settings(need_keys=need_keys)

    return load


@pytest.fixture
def problems(load):
    """The lines about what is wrong, without the heading."""

    def problems(**environment: str) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            load(**environment)
        return [line.strip() for line in str(caught.value).splitlines()[1:]]

    return problems


def names_of(field: str) -> list[str]:
    alias = Settings.model_fields[field].validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [field.upper()]


def textual_forms(settings: Settings) -> str:
    return " ".join(
        [repr(settings), str(settings), str(vars(settings)), str(settings.model_dump()), settings.model_dump_json()]
    )


# Defaults and sources


def test_a_key_is_all_that_has_to_be_set(load):
    """The documented defaults."""
    settings = load()
    assert settings.rabbitmq_url.get_secret_value() == "amqp://guest:guest@localhost:5672/"
    assert (settings.request_queue, settings.response_queue) == ("gemini.requests", "gemini.responses")
    assert settings.queue_retry_delays == (60, 600, 3600, 86400)
    assert settings.upstream_retry_delays == (2, 10, 60)
    assert settings.ledger_ttl_seconds == 172_800
    assert settings.keys == (ApiKey(KEY),)


def test_the_example_names_every_setting_and_no_other():
    """Somebody who reads only that file misses nothing."""
    named = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert named - OF_THE_PROCFILE == {name for field in Settings.model_fields for name in names_of(field)}


def test_the_example_states_the_defaults(bare: Path):
    """With every # taken away from the settings, it changes nothing."""
    nothing_set = load_settings(need_keys=False)
    (bare / ".env").write_text(re.sub(r"^#([A-Z_]+=)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE))
    assert load_settings(need_keys=False) == nothing_set


def test_the_example_works_as_it_is_once_a_key_is_filled_in(bare: Path):
    """`cp .env.example .env`, one line to edit."""
    (bare / ".env").write_text(EXAMPLE.read_text().replace("\nOPENROUTER_API_KEYS=", f"\nOPENROUTER_API_KEYS={KEY}"))
    assert load_settings().keys == (ApiKey(KEY),)


@pytest.mark.parametrize(
    "field", [name for name, of in Settings.model_fields.items() if "For example" in of.description]
)
def test_what_the_documentation_gives_as_an_example_can_be_used(load, field: str):
    """Somebody will copy it."""
    (example,) = re.findall(r"For example:\s+`(.+)`$", Settings.model_fields[field].description)
    assert getattr(load(**{field.upper(): example}), field)


def test_the_environment_wins_over_the_file(load, bare: Path):
    """A deployment overrides what lies in the folder; what it does not set comes from there."""
    (bare / ".env").write_text("REQUEST_QUEUE=from.file\nRESPONSE_QUEUE=also.from.file\n")
    settings = load(REQUEST_QUEUE="from.environment")
    assert (settings.request_queue, settings.response_queue) == ("from.environment", "also.from.file")


def test_an_empty_value_counts_as_not_set(load, bare: Path):
    """Compose files and Heroku set variables to nothing; then the file and the default apply."""
    (bare / ".env").write_text("REQUEST_QUEUE=from.file\n")
    settings = load(REQUEST_QUEUE="", REDIS_URL="", QUEUE_MAX_RETRIES="", RABBITMQ_URL="")
    assert settings.request_queue == "from.file"
    assert settings.redis_url is None
    assert settings.queue_max_retries == 4


def test_a_file_may_be_written_as_people_write_it(bare: Path):
    """With a byte order mark, ends of lines of Windows, `export`, quotes, blanks and remarks."""
    (bare / ".env").write_bytes(
        b'\xef\xbb\xbfOPENROUTER_API_KEYS="sk-or-v1-aaaaaaaa1"\r\n'
        b"export REQUEST_QUEUE='from.file'\r\nRESPONSE_QUEUE = also.from.file # a remark\r\n"
    )
    settings = load_settings()
    assert [key.reveal() for key in settings.keys] == ["sk-or-v1-aaaaaaaa1"]
    assert (settings.request_queue, settings.response_queue) == ("from.file", "also.from.file")


def test_a_file_that_cannot_be_read_is_a_problem_in_a_line(bare: Path):
    """Not a traceback."""
    (bare / ".env").write_bytes(b"OPENROUTER_SITE_NAME=caf\xe9\n")
    with pytest.raises(SettingsError, match=r"\.ENV: cannot be read"):
        load_settings(need_keys=False)


def test_a_file_that_cannot_be_read_hides_no_other_problem(problems, bare: Path):
    """Everything at once, as always."""
    (bare / ".env").write_bytes(b"\xe9")
    assert [line.partition(":")[0] for line in problems(LOG_FORMAT="xml")] == [".ENV", "LOG_FORMAT"]


def test_settings_cannot_be_changed(load):
    """They are shared by every thread."""
    settings = load(MODEL_ALIASES="a=b")
    with pytest.raises(ValidationError):
        settings.keys_max_per_minute = 5
    with pytest.raises(TypeError):
        settings.model_aliases["a"] = "c"


# Keys


def test_keys_are_listed_labelled_stripped_and_counted_once(load):
    """As an operator pastes them."""
    settings = load(OPENROUTER_API_KEYS=" sk-or-v1-aaaaaaaa1 , main = sk-or-v1-bbbbbbbb2,sk-or-v1-aaaaaaaa1,, ")
    assert [key.reveal() for key in settings.keys] == ["sk-or-v1-aaaaaaaa1", "sk-or-v1-bbbbbbbb2"]
    assert [key.label for key in settings.keys] == [None, "main"]


def test_the_usual_name_of_a_single_key_works_too(load):
    """Alone, beside the list, and in both."""
    assert [key.reveal() for key in load(OPENROUTER_API_KEYS="", OPENROUTER_API_KEY=KEY).keys] == [KEY]
    settings = load(OPENROUTER_API_KEYS=f"sk-or-v1-aaaaaaaa1,{KEY}", OPENROUTER_API_KEY=KEY)
    assert [key.reveal() for key in settings.keys] == ["sk-or-v1-aaaaaaaa1", KEY]


@pytest.mark.parametrize(
    "bad", ["sk-or canary", "sk-or\x07canary", "sk-or-canär", '"sk-or-canary"\n x', "sk-or-ca\nnary"]
)
def test_a_key_with_characters_that_no_key_has_is_refused_without_being_shown(problems, bad: str):
    """It would end up in the text of an exception about a bad header."""
    (line,) = problems(OPENROUTER_API_KEYS=f"sk-or-v1-aaaaaaaa1,{bad}")
    assert line.startswith("OPENROUTER_API_KEYS: key number 2 has characters that no key has")
    assert "ca" not in line.replace("characters", "")


def test_a_worker_needs_a_key_and_the_bridge_does_not(problems, load):
    """The bridge calls no provider."""
    (line,) = problems(OPENROUTER_API_KEYS="")
    assert line.startswith("OPENROUTER_API_KEYS: no key is set")
    assert load(OPENROUTER_API_KEYS="", need_keys=False).keys == ()


def test_gemini_keys_are_used_only_when_there_is_no_other(load):
    """The legacy path."""
    both = load(GEMINI_API_KEYS="AIza-canary-gemini")
    assert not both.uses_gemini
    assert [key.reveal() for key in both.keys] == [KEY]
    alone = load(GEMINI_API_KEYS="AIza-canary-gemini", OPENROUTER_API_KEYS="")
    assert alone.uses_gemini
    assert [key.reveal() for key in alone.keys] == ["AIza-canary-gemini"]


QUOTED = [
    f'"{KEY},sk-or-v1-canary-key-2222"',
    f"'{KEY},sk-or-v1-canary-key-2222'",
    f'"{KEY}","sk-or-v1-canary-key-2222"',
    f""" '"{KEY}, sk-or-v1-canary-key-2222"' """,
    f"{KEY},'sk-or-v1-canary-key-2222'",
]


@pytest.mark.parametrize("text", QUOTED)
def test_quotes_around_keys_are_taken_off(load, text: str):
    """`docker run --env-file` and lists in compose files hand them over: each key would get a 401."""
    assert [key.reveal() for key in load(OPENROUTER_API_KEYS=text).keys] == [KEY, "sk-or-v1-canary-key-2222"]


def test_quotes_around_any_setting_are_taken_off(load, bare: Path):
    """In the environment and in the file, where a compose file may have put a second pair."""
    (bare / ".env").write_text("RESPONSE_QUEUE='\"answers\"'\n")
    settings = load(
        OPENROUTER_MODEL='"google/gemini-2.5-pro"',
        REQUEST_QUEUE="'requests'",
        RABBITMQ_URL='"amqp://u:p@own/v"',
        OPENROUTER_BASE_URL="'https://openrouter.ai/api/v1'",
        QUEUE_RETRY_DELAYS='"1,2"',
        QUEUE_EARLY_RELEASE='"false"',
        MODEL_ALIASES="""'{"fast": "google/gemini-2.5-flash-lite"}'""",
        REDIS_URL='""',
    )
    assert settings.openrouter_model == "google/gemini-2.5-pro"
    assert (settings.request_queue, settings.response_queue) == ("requests", "answers")
    assert settings.rabbitmq_url.get_secret_value() == "amqp://u:p@own/v"
    assert settings.openrouter_base_url == "https://openrouter.ai/api/v1"
    assert settings.queue_retry_delays == (1, 2)
    assert settings.queue_early_release is False
    assert settings.model_aliases == {"fast": "google/gemini-2.5-flash-lite"}
    assert settings.redis_url is None


def test_quotes_inside_a_value_stay(load):
    """They are somebody's text."""
    assert load(OPENROUTER_SITE_NAME='"A" and "B"').openrouter_site_name == '"A" and "B"'


@pytest.mark.parametrize("name", ["http_proxy", "Http_Proxy", "redis_url", "openrouter_api_key"])
def test_a_variable_in_lower_case_is_not_ours(load, monkeypatch: pytest.MonkeyPatch, bare: Path, name: str):
    """The machine's `http_proxy` is for other programs: a key went in clear to such a proxy."""
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    (bare / ".env").write_text(f"{name}=http://127.0.0.1:1\n")
    settings = load()
    assert getattr(settings, name.lower()) in (None, ())
    assert settings.keys == (ApiKey(KEY),)


@pytest.mark.parametrize(
    "placeholder",
    [
        "your-api-key-here",
        "YOUR_OPENROUTER_API_KEY",
        "your_gemini_key_here",
        "sk-or-v1-...",
        "sk-or-v1-0e6…3a",
        "sk-or-v1-0e6...f44",
        "sk-or-v1-your-key-here",
        "sk-or-v1-xxxxxxxxxxxxxxxx",
        "sk-or-v1-",
        "<key>",
        "<your key>",
        "[API_KEY]",
        "${OPENROUTER_API_KEY}",
        "{{ key }}",
        "%OPENROUTER_API_KEY%",
        "changeme",
        "change-me",
        "xxx",
        "****1234",
        "AIza...",
        "my-api-key",
        "replace_me",
        "insert-key-here",
        "placeholder",
        "none",
        "null",
        "API_KEY",
        "$OPENROUTER_API_KEY",
        "OPENROUTER_API_KEY",
        "put-key-here",
        "sk-or-v1-REDACTED",
        "sk-or-v1-example",
        "sk-or-v1-123",
        "main=",
        "production-accounts=",
    ],
)
@pytest.mark.parametrize("setting", ["OPENROUTER_API_KEYS", "GEMINI_API_KEYS"])
def test_a_placeholder_is_no_key(problems, setting: str, placeholder: str):
    """What documentation and templates have in its place, and what is left of a key on a screen."""
    (line,) = problems(**{"OPENROUTER_API_KEYS": "", setting: f"sk-or-v1-aaaaaaaa1,{placeholder}"})
    assert line.startswith(f"{setting}: key number 2 is a placeholder: give the whole key")


@pytest.mark.parametrize(
    "key", ["sk-my-litellm-key-1234", "my-api-key-9f3a", "EMPTY", "bG9uZyBlbm91Z2ggZm9yIGEga2V5Cg==", "team-key"]
)
@pytest.mark.parametrize("form", ["{}", "label={}", 'label="{}"', "'{}'"])
def test_a_stand_in_has_keys_by_any_name(load, key: str, form: str):
    """Whatever follows the label is the key, base64 with its padding too; what is no key is refused there as well."""
    where = {"OPENROUTER_BASE_URL": "http://litellm:4000/v1"}
    (found,) = load(OPENROUTER_API_KEYS=form.format(key), **where).keys
    assert (found.reveal(), found.label) == (key, "label" if "label" in form else None)
    for placeholder in ("main=", "<key>", "$LITELLM_KEY", "sk-..."):
        with pytest.raises(SettingsError, match="key number 1 is a placeholder"):
            load(OPENROUTER_API_KEYS=placeholder, **where)


@pytest.mark.parametrize("model", ["google/gemini-2.0-flash-001@preset/mine", "@preset/mine"])
def test_a_preset_is_a_model(load, model: str):
    """Alone, or behind a model: OpenRouter's own forms."""
    assert load(OPENROUTER_MODEL=model).openrouter_model == model


@pytest.mark.parametrize(
    ("settings", "says", "not_so"),
    [
        ({"OPENROUTER_BASE_URL": "openrouter.ai/api/v1"}, "begins with https://", "password,"),
        ({"RABBITMQ_URL": "amqp://h/?heartbeat=x"}, "?heartbeat=5", "20"),
        ({"RABBITMQ_URL": "amqp://u:p/w@h"}, "percent-encode", "\n"),
        ({"REDIS_URL": "redis://h/notadb"}, "the number of a database", "notadb"),
    ],
)
def test_a_remedy_can_be_followed(problems, settings: dict[str, str], says: str, not_so: str):
    """It is about what is wrong, and what it recommends is obeyed."""
    (line,) = problems(**settings)
    assert (says in line, not_so in line) == (True, False), line


def test_a_real_key_is_no_placeholder(load):
    """Keys are random: of ten thousand none is refused, whatever its alphabet."""
    random = Random(13)
    hexadecimal, url_safe = "0123456789abcdef", string.ascii_letters + string.digits + "-_"
    for _ in range(5_000):
        for key in (
            "sk-or-v1-" + "".join(random.choices(hexadecimal, k=64)),
            "AIza" + "".join(random.choices(url_safe, k=35)),
        ):
            assert not any(pattern.search(key) for pattern in PLACEHOLDERS), key
    assert load(OPENROUTER_API_KEYS="sk-1234,test,dummy").keys


@pytest.mark.parametrize("separator", [";", "|", " ", "\n", "\t", "\\n"])
def test_keys_with_another_separator_are_refused(problems, separator: str):
    """Two keys in one header, and a remedy."""
    (line,) = problems(OPENROUTER_API_KEYS=f"sk-or-v1-aaaaaaaa1{separator}sk-or-v1-bbbbbbbb2")
    assert line.startswith("OPENROUTER_API_KEYS: key number 1 has characters that no key has")
    assert "separate keys by commas" in line


@pytest.mark.parametrize(
    "text", ['["sk-or-v1-aaaaaaaa1", "sk-or-v1-bbbbbbbb2"]', "Bearer sk-or-v1-aaaaaaaa1", "(sk-or-v1-a1)"]
)
def test_a_key_in_a_form_of_another_program_is_refused(problems, text: str):
    """A JSON list, a whole header."""
    (line,) = problems(OPENROUTER_API_KEYS=text)
    assert line.startswith("OPENROUTER_API_KEYS: key number 1 ")


# Addresses and models that no provider has


@pytest.mark.parametrize(
    "url",
    [
        "https://openrouter.ai/api/v1/chat/completions",
        "https://openrouter.ai/api/v1/models",
        "https://openrouter.ai",
        "https://openrouter.ai/api",
        "https://openrouter.ai/v1",
        "http://openrouter.ai/api/v1",
        "https://eu.openrouter.ai/chat/completions",
    ],
)
def test_an_address_that_openrouter_does_not_have_is_refused(problems, url: str):
    """Every request would get a 404 of a web server."""
    (line,) = problems(OPENROUTER_BASE_URL=url)
    assert line.startswith("OPENROUTER_BASE_URL: OpenRouter's API is at https://")
    assert "/api/v1: give that" in line


@pytest.mark.parametrize(
    "url",
    ["https://openrouter.ai/api/v1/", "https://eu.openrouter.ai/api/v1", "http://127.0.0.1:8080", "http://gw/llm"],
)
def test_addresses_of_openrouter_and_of_stand_ins_are_taken(load, url: str):
    """What another host has is its own affair, and asked after the start."""
    assert load(OPENROUTER_BASE_URL=url).openrouter_base_url == url.rstrip("/")


@pytest.mark.parametrize("path", ["/v1beta", "/v1beta/models", "/v1", "/v1beta/openai"])
def test_the_version_is_no_part_of_geminis_address(problems, path: str):
    """It is added: `…/v1beta/v1beta/models` is a 404."""
    host = "https://generativelanguage.googleapis.com"
    (line,) = problems(OPENROUTER_API_KEYS="", GEMINI_API_KEYS="AIza-canary", GEMINI_BASE_URL=host + path)
    assert line.startswith(f"GEMINI_BASE_URL: give {host} without the version")


@pytest.mark.parametrize("model", ["openrouter/google/gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash"])
def test_a_model_in_the_form_of_another_library_is_refused(problems, model: str):
    """LiteLLM's and Vertex' names; as the default and behind an alias."""
    (line,) = problems(OPENROUTER_MODEL=model)
    assert line.startswith("OPENROUTER_MODEL: names a model in another provider's form: OpenRouter's are vendor/name")
    (line,) = problems(OPENROUTER_MODEL="", MODEL_ALIASES=f"fast={model}")
    assert line.startswith("MODEL_ALIASES: names a model in another provider's form")


@pytest.mark.parametrize("model", ["openai/gpt-4o", "google/gemini-2.5-flash:free"])
def test_a_model_that_google_does_not_have_is_refused(problems, model: str):
    """With keys of Google only."""
    keys = {"OPENROUTER_API_KEYS": "", "GEMINI_API_KEYS": "AIza-canary"}
    (line,) = problems(**keys, GEMINI_MODEL_TEXT=model)
    assert line.startswith("GEMINI_MODEL_TEXT: names a model in another provider's form: Google's are gemini-")
    (line,) = problems(**keys, GEMINI_MODEL_TEXT="", MODEL_ALIASES=f"fast={model}")
    assert line.startswith("MODEL_ALIASES: names a model in another provider's form")


@pytest.mark.parametrize(
    "model", ["gemini-2.5-flash", "models/gemini-2.5-flash", "google/gemini-2.5-flash", "gemini-pro"]
)
@pytest.mark.parametrize("setting", ["OPENROUTER_MODEL", "GEMINI_MODEL_TEXT"])
def test_every_name_of_a_gemini_model_is_taken(load, setting: str, model: str):
    """With either provider: they are mapped as in a request."""
    keys = {"OPENROUTER_API_KEYS": "", "GEMINI_API_KEYS": "AIza-canary"} if setting.startswith("GEMINI") else {}
    assert getattr(load(**keys, **{setting: model}), setting.lower()) == model


def test_a_key_of_the_other_provider_is_named(problems):
    """It would be refused, or not even be asked."""
    (line,) = problems(OPENROUTER_API_KEYS=f"{KEY},AIzaSyD-canary")
    assert line.startswith("OPENROUTER_API_KEYS: one is a key of Google's own API: give it in GEMINI_API_KEYS")
    (line,) = problems(OPENROUTER_API_KEYS="", GEMINI_API_KEYS=KEY)
    assert line.startswith("GEMINI_API_KEYS: one is a key of OpenRouter: give it in OPENROUTER_API_KEYS")


def test_an_alias_that_is_never_looked_up_is_refused(problems):
    """A name with a vendor goes out as it is."""
    (line,) = problems(MODEL_ALIASES="google/gemini-pro=google/gemini-2.5-pro")
    assert line.startswith("MODEL_ALIASES: an alias has no / in it")


# RabbitMQ


def test_cloudamqp_stands_in_for_rabbitmq_url(load):
    """Heroku's add-on sets it; the project's own name wins."""
    assert load(CLOUDAMQP_URL="amqps://u:p@cloud/v").rabbitmq_url.get_secret_value() == "amqps://u:p@cloud/v"
    both = load(CLOUDAMQP_URL="amqps://u:p@cloud/v", RABBITMQ_URL="amqp://u:p@own/v")
    assert both.rabbitmq_url.get_secret_value() == "amqp://u:p@own/v"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:canary-pw@host/",
        "user:canary-pw@host",
        "amqp://user:canary-pw@:5672/",
        "amqp://user:canary-pw/x@host/",
        "amqp://user:canary-pw@host:port/",
        "amqp://user:canary-pw@[host/",
        "amqp://user:canary-pw\u2100@host/",
        "amqp://canary-pw@host/",
        "amqp://user:canary-pw@host/?heartbeat=canary-pw",
        "amqp://user:canary-pw@host/?canary-pw=1",
        "amqp://user:canary-pw@host/\x1b",
    ],
)
def test_a_url_that_pika_could_not_use_is_refused_without_being_shown(problems, url: str):
    """urllib's and pika's own errors quote the URL, or the half of a password that they take for a port."""
    (line,) = problems(RABBITMQ_URL=url)
    assert line.startswith("RABBITMQ_URL: ")
    assert "canary" not in line


#: Any certificate authority file that this machine has.
AUTHORITY = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"


@pytest.mark.parametrize(
    "options", [{"ca_certs": AUTHORITY, "protocol": int(ssl.PROTOCOL_TLS)}, {"ca_certs": AUTHORITY, "cert_reqs": 0}]
)
def test_verification_of_certificates_cannot_be_switched_off_in_the_url(problems, options: dict):
    """S7: pika makes a context that accepts any certificate when it is given a protocol."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that protocol is deprecated as well
        (line,) = problems(RABBITMQ_URL=f"amqps://u:p@host/?ssl_options={quote(str(options))}")
    assert "verification of certificates" in line


def test_tls_with_a_private_authority_is_possible(load):
    """The use of ssl_options that keeps verification on."""
    options = quote(str({"ca_certs": AUTHORITY}))
    assert load(RABBITMQ_URL=f"amqps://u:p@host/?ssl_options={options}")


@pytest.mark.parametrize(
    "options", ["cacertfile=/canary.pem&verify=verify_peer", "cafile=/canary.pem", "no_verify_ssl=1"]
)
def test_options_of_another_library_are_refused_with_the_setting_to_use(problems, options: str):
    """RabbitMQ's own form of a URL, and aio-pika's."""
    (line,) = problems(RABBITMQ_URL=f"amqps://u:p@host/?{options}")
    assert "RABBITMQ_CA_FILE" in line
    assert "canary" not in line


def test_an_authority_of_ones_own_is_a_file(load):
    """In the form that each client takes, with verification on and the URL's other options kept."""
    settings = load(
        RABBITMQ_URL="amqps://u:p%2F@host:5671/v?heartbeat=5",
        RABBITMQ_CA_FILE=AUTHORITY,
        REDIS_URL="rediss://:p%2F@host:6379/1?client_name=x",
        REDIS_CA_FILE=AUTHORITY,
    )
    amqp = parameters(settings.amqp_address, name="test")
    assert (amqp.host, amqp.port, amqp.virtual_host, amqp.heartbeat, amqp.credentials.password) == (
        "host",
        5671,
        "v",
        5,
        "p/",
    )
    assert amqp.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    assert amqp.ssl_options.context.check_hostname
    redis = parse_url(settings.redis_address)
    assert (redis["ssl_ca_certs"], redis["ssl_cert_reqs"], redis["password"], redis["db"]) == (
        AUTHORITY,
        "required",
        "p/",
        1,
    )


@pytest.mark.parametrize(("setting", "url"), [("RABBITMQ", "amqp://u:p@host/"), ("REDIS", "redis://host")])
def test_an_authority_for_a_url_without_tls_is_a_mistake(problems, setting: str, url: str):
    """An operator who names one takes the connection for encrypted."""
    (line,) = problems(**{f"{setting}_URL": url, f"{setting}_CA_FILE": AUTHORITY})
    assert line.startswith(f"{setting}_CA_FILE: {setting}_URL asks for no TLS: let it begin with")


@pytest.mark.parametrize("folder", [".", "/", "./"])
def test_a_path_without_a_name_is_no_state_file(problems, folder: str):
    """Files beside it are named after it: a worker ended with a fault of its own there."""
    (line,) = problems(STATE_PATH=folder)
    assert line.startswith("STATE_PATH: give a file, this is a folder")


@pytest.mark.parametrize("setting", ["RABBITMQ_CA_FILE", "REDIS_CA_FILE"])
def test_a_file_that_holds_no_certificates_is_refused(problems, bare: Path, setting: str):
    """And one that is not there."""
    (bare / "empty.pem").write_text("")
    for file in ("empty.pem", "missing.pem"):
        (line,) = problems(**{setting: file})
        assert line.startswith(f"{setting}: give a file of certificates in PEM form")


@pytest.mark.parametrize(
    ("url", "verify", "requirement"),
    [
        ("rediss://host", "true", "required"),
        ("rediss://host", "false", "none"),
        ("rediss://host?ssl_cert_reqs=none", "true", "none"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "true", "none"),
        ("rediss://host?ssl_cert_reqs=CERT_REQUIRED", "false", "required"),
    ],
)
def test_redis_is_verified_unless_somebody_says_otherwise(load, url: str, verify: str, requirement: str):
    """As Heroku documents it, as redis-py takes it, as Celery writes it."""
    assert parse_url(load(REDIS_URL=url, REDIS_TLS_VERIFY=verify).redis_address)["ssl_cert_reqs"] == requirement


def test_a_redis_without_tls_stays_as_it_is(load):
    """`app.json` switches verification off for whatever Redis there is."""
    for url in ("redis://host:6379/0", "unix:///run/redis.sock"):
        assert load(REDIS_URL=url, REDIS_TLS_VERIFY="false").redis_address == url


@pytest.mark.parametrize(
    "url",
    [
        "rediss://host?ssl_cert_reqs=canary",
        "rediss://host?canary=1",
        "redis://host?ssl_cert_reqs=none",
        "redis://host?ssl=canary",
    ],
)
def test_options_that_redis_py_could_not_use_are_refused(problems, url: str):
    """It would say so at the first command, with a TypeError."""
    (line,) = problems(REDIS_URL=url)
    assert line.startswith("REDIS_URL: ")
    assert "canary" not in line


def said(settings: Settings) -> str:
    return "\n".join(remarks(settings))


@pytest.mark.parametrize(
    ("asked", "used"), [("", 10), ("?heartbeat=5", 5), ("?heartbeat=60", 10), ("?heartbeat=0", 10)]
)
def test_a_heartbeat_is_obeyed_within_limits_or_that_is_said(load, asked: str, used: int):
    """A server that is gone is noticed after two of them."""
    settings = load(RABBITMQ_URL=f"amqp://u:canary-pw@host/{asked}")
    assert parameters(settings.amqp_address, name="test").heartbeat == used
    assert ("heartbeat has to be 1 to 10 seconds" in said(settings)) == (asked not in {"", "?heartbeat=5"})
    assert "canary" not in said(settings)


def test_options_that_the_worker_decides_are_said(load):
    """How long to wait for RabbitMQ, and how often to try."""
    settings = load(RABBITMQ_URL="amqp://host/?connection_attempts=10&socket_timeout=60&channel_max=100")
    used = parameters(settings.amqp_address, name="test")
    assert (used.connection_attempts, used.socket_timeout, used.channel_max) == (1, 5, 100)
    assert said(settings) == (
        "RABBITMQ_URL: connection_attempts, socket_timeout is not used, the worker has its own: take it out"
    )


def test_a_certificate_that_is_not_verified_is_said(load):
    """With the better way."""
    assert "give REDIS_CA_FILE" in said(load(REDIS_URL="rediss://:canary@host", REDIS_TLS_VERIFY="false"))
    assert said(load(REDIS_URL="rediss://host", REDIS_TLS_VERIFY="true")) == ""


def test_a_reserve_that_has_no_effect_is_said(load):
    """Batch has one call of each window at least."""
    assert said(load(INTERACTIVE_RESERVE="0.5", KEYS_MAX_PER_MINUTE="1")).startswith("INTERACTIVE_RESERVE: ")
    assert said(load(INTERACTIVE_RESERVE="0.5", KEYS_MAX_PER_MINUTE="2")) == ""


# The proxy

PROXY = "http://user:canary-pw@proxy:3128"


def test_a_provider_in_clear_behind_a_proxy_is_said(load):
    """The proxy reads keys and prompts of `http://`, and of nothing else."""
    told = said(load(HTTP_PROXY=PROXY, OPENROUTER_BASE_URL="http://gateway.test/v1"))
    assert told.startswith("OPENROUTER_BASE_URL begins with http:// and is called through HTTP_PROXY")
    assert "canary" not in told
    assert said(load(HTTP_PROXY=PROXY, OPENROUTER_BASE_URL="https://gateway.test/v1")) == ""
    assert said(load(HTTP_PROXY=PROXY, OPENROUTER_BASE_URL="http://gateway.test/v1", NO_PROXY=".test")) == ""


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*", "https://openrouter.ai/api/v1"),
        ("openrouter.ai", "https://openrouter.ai/api/v1"),
        ("localhost, OpenRouter.ai", "https://openrouter.ai/api/v1"),
        ("localhost openrouter.ai", "https://openrouter.ai/api/v1"),
        (".openrouter.ai", "https://eu.openrouter.ai/api/v1"),
        ("*.openrouter.ai", "https://eu.openrouter.ai/api/v1"),
        ("openrouter.ai:443", "https://openrouter.ai/api/v1"),
        ("gateway:8080", "http://gateway:8080/v1"),
        ("10.0.0.0/8", "http://10.1.2.3/v1"),
        ("10.1.2.3", "http://10.1.2.3/v1"),
        ("::1", "http://[::1]:8080/v1"),
        ("[::1]:8080", "http://[::1]:8080/v1"),
        ("fd00::/8", "http://[fd00::1]/v1"),
    ],
)
def test_no_proxy_covers_the_providers_host(load, no_proxy: str, url: str):
    """In the forms that curl and others take."""
    assert load(HTTP_PROXY=PROXY, NO_PROXY=no_proxy, OPENROUTER_BASE_URL=url).provider_proxy is None


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("", "https://openrouter.ai/api/v1"),
        ("router.ai", "https://openrouter.ai/api/v1"),
        ("openrouter.ai.test", "https://openrouter.ai/api/v1"),
        ("openrouter.ai:80", "https://openrouter.ai/api/v1"),
        (".", "https://openrouter.ai/api/v1"),
        ("10.0.0.0/8", "http://11.0.0.1/v1"),
        ("10.0.0.0/8", "http://ten.test/v1"),
        ("10.0.0.0/99,[::1", "http://10.0.0.1/v1"),
    ],
)
def test_no_proxy_covers_no_other_host(load, no_proxy: str, url: str):
    """Nor a name that only ends alike; what cannot be read covers nothing."""
    assert load(HTTP_PROXY=PROXY, NO_PROXY=no_proxy, OPENROUTER_BASE_URL=url).provider_proxy is not None


def test_no_proxy_is_about_the_provider_in_use(load):
    """With keys of Google only, that is Google."""
    keys = {"OPENROUTER_API_KEYS": "", "GEMINI_API_KEYS": "AIza-canary"}
    assert load(HTTP_PROXY=PROXY, NO_PROXY="googleapis.com", **keys).provider_proxy is None
    assert load(HTTP_PROXY=PROXY, NO_PROXY="openrouter.ai", **keys).provider_proxy is not None


def test_tls_options_on_a_plain_url_are_a_mistake(problems):
    """They would be obeyed on the port for plain connections."""
    (line,) = problems(RABBITMQ_URL="amqp://u:p@host/?ssl_options=None")
    assert "amqps://" in line


@pytest.mark.parametrize(
    "name", ["amq.topic", "x" * 256, "é" * 128, "gemini.generate", "gemini.callbacks.delay.5s", " "]
)
@pytest.mark.parametrize("setting", ["REQUEST_QUEUE", "RESPONSE_QUEUE"])
def test_a_queue_has_a_possible_name_that_is_not_ours(problems, setting: str, name: str):
    """A loop that pays for ever begins with a queue that is both."""
    (line,) = problems(**{setting: name})
    assert line.startswith(f"{setting}: ")


def test_answers_do_not_come_back_as_requests(problems):
    """Also when one of the two is a default."""
    (line,) = problems(RESPONSE_QUEUE="gemini.requests")
    assert line.startswith("RESPONSE_QUEUE: the same as REQUEST_QUEUE")


# Waits


def test_delays_may_have_fractions_and_the_last_one_repeats(load):
    """A test uses a short schedule; QUEUE_MAX_RETRIES counts waits, not delays."""
    settings = load(QUEUE_RETRY_DELAYS="0.5, 2", QUEUE_MAX_RETRIES="3")
    assert [settings.retry_delay_s(count) for count in range(4)] == [0.5, 2, 2, None]


def test_fewer_retries_than_delays_end_the_schedule_early(load):
    """None at all is possible."""
    assert load(QUEUE_MAX_RETRIES="1").retry_delay_s(1) is None
    assert load(QUEUE_MAX_RETRIES="0").retry_delay_s(0) is None


def test_the_upstream_schedule_does_not_repeat(load):
    """A provider that stays at fault is an answer, too."""
    settings = load(UPSTREAM_RETRY_DELAYS="1,2")
    assert [settings.upstream_delay_s(retries) for retries in range(3)] == [1, 2, None]


def test_the_field_of_fairness_is_a_name(load, problems):
    """None by default; what is no name of one field is refused."""
    assert load().fairness_field is None
    assert load(FAIRNESS_FIELD=" tenant ").fairness_field == "tenant"
    for text in (" ", "x" * 101, "a\tb"):
        (line,) = problems(FAIRNESS_FIELD=text)
        assert line.startswith("FAIRNESS_FIELD: give the name of one field in metadata")


@pytest.mark.parametrize("delays", ["0", "-1", "nan", "inf", "60,,600", "1m", "604801", ",".join(["1"] * 16), "0.0001"])
@pytest.mark.parametrize("setting", ["QUEUE_RETRY_DELAYS", "UPSTREAM_RETRY_DELAYS"])
def test_a_schedule_that_rabbitmq_could_not_hold_is_refused(problems, setting: str, delays: str):
    """From a millisecond to a week, at most fifteen."""
    (line,) = problems(**{setting: delays})
    assert line.startswith(f"{setting}: give ")


def test_the_ledger_remembers_longer_than_the_waits_last(problems, load):
    """Else a redelivery at the end of the schedule is paid again; the text names what is needed."""
    (line,) = problems(LEDGER_TTL_SECONDS="90732")
    assert line.startswith("LEDGER_TTL_SECONDS: ")
    assert "more than 90732" in line
    assert load(LEDGER_TTL_SECONDS="90733").ledger_ttl_seconds == 90733
    assert load(LEDGER_TTL_SECONDS="0").ledger_ttl_seconds == 0


# Others


def test_aliases_are_pairs_or_json(load):
    """A model's name may hold = signs no less than colons."""
    expected = {"fast": "google/gemini-2.5-flash-lite", "free": "x/y:free"}
    assert load(MODEL_ALIASES="fast=google/gemini-2.5-flash-lite, free = x/y:free").model_aliases == expected
    as_json = '{"fast": "google/gemini-2.5-flash-lite", "free": "x/y:free"}'
    assert load(MODEL_ALIASES=as_json).model_aliases == expected


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MODEL_ALIASES", "fast"),
        ("MODEL_ALIASES", '{"fast": 1}'),
        ("MODEL_ALIASES", '{"fast"'),
        ("OPENROUTER_MODEL", "two words"),
        ("OPENROUTER_BASE_URL", "openrouter.ai"),
        ("OPENROUTER_BASE_URL", "https://user:pw@openrouter.ai"),
        ("OPENROUTER_SITE_NAME", "one\r\nX-Other: two"),
        ("CALLBACK_QUEUE_PATTERN", "("),
        ("HTTP_PROXY", "ftp://host"),
        ("REDIS_URL", "localhost:6379"),
        ("SENTRY_DSN", "https://sentry.io/1"),
        ("SENTRY_DSN", "https://key@sentry.io/"),
        ("KEYS_MAX_PER_MINUTE", "0"),
        ("KEYS_MAX_IN_FLIGHT", "-1"),
        ("KEYS_WINDOW_SECONDS", "inf"),
        ("KEYS_COOLDOWN_SECONDS", "nan"),
        ("REQUEST_TIMEOUT_SECONDS", "1201"),
        ("WORKER_PREFETCH_COUNT", "65536"),
        ("LEDGER_TTL_SECONDS", "inf"),
        ("QUEUE_MAX_RETRIES", "-1"),
        ("QUEUE_EARLY_RELEASE", "perhaps"),
        ("SENTRY_TRACES_SAMPLE_RATE", "1.1"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(problems, setting: str, value: str):
    """One line: the variable, what to give, and that it may be left out."""
    (line,) = problems(**{setting: value})
    assert re.match(rf"{setting}: give .*; or leave it out", line)


def test_level_and_format_may_be_written_either_way(load):
    """As people do."""
    settings = load(LOG_LEVEL="debug", LOG_FORMAT="JSON")
    assert (settings.log_level, settings.log_format) == ("DEBUG", "json")


def test_every_problem_is_reported_at_once(problems):
    """Of single fields, between fields, and what is missing: nobody deploys three times."""
    lines = problems(
        OPENROUTER_API_KEYS="",
        QUEUE_MAX_RETRIES="many",
        LOG_FORMAT="xml",
        RABBITMQ_URL="http://host",
        RESPONSE_QUEUE="gemini.requests",
    )
    named = {line.partition(":")[0] for line in lines}
    assert named == {"OPENROUTER_API_KEYS", "QUEUE_MAX_RETRIES", "LOG_FORMAT", "RABBITMQ_URL", "RESPONSE_QUEUE"}


def test_a_field_with_a_problem_raises_no_second_one(problems):
    """A schedule that cannot be read says nothing about the ledger, a bad key is no missing key."""
    lines = problems(OPENROUTER_API_KEYS="sk or", QUEUE_RETRY_DELAYS="x", LEDGER_TTL_SECONDS="5")
    assert {line.partition(":")[0] for line in lines} == {"OPENROUTER_API_KEYS", "QUEUE_RETRY_DELAYS"}


MISPLACED = "sk-canary \x1b-[x@another-canary:"


@pytest.mark.parametrize("setting", sorted({name for field in Settings.model_fields for name in names_of(field)}))
def test_no_problem_repeats_what_was_given(load, setting: str):
    """A secret can stand in the wrong variable."""
    said = ""
    try:
        load(**{setting: MISPLACED})
    except SettingsError as error:
        said = "".join(traceback.format_exception(error))
    assert "sk-canary" not in said
    assert "another-canary" not in said


def test_a_bad_setting_is_an_error_of_the_gateway(load):
    """Whoever boots a process catches one root."""
    with pytest.raises(GatewayError):
        load(LOG_LEVEL="LOUD")


# Secrets

SECRETS = {
    "OPENROUTER_API_KEYS": "main=sk-or-v1-canary-one,sk-or-v1-canary-two",
    "OPENROUTER_API_KEY": "sk-or-v1-canary-three",
    "GEMINI_API_KEYS": "AIza-canary-four",
    "RABBITMQ_URL": "amqp://user:canary%2Ffive@host/",
    "REDIS_URL": "redis://:canary-six@host:6379/0",
    "HTTP_PROXY": "http://user:canary-seven@proxy:3128",
    "SENTRY_DSN": "https://canaryeight@host.invalid/1",
}


def test_no_textual_form_of_the_settings_shows_a_secret(load):
    """repr, str, vars, and both kinds of dump."""
    settings = load(**SECRETS)
    assert "canary" not in textual_forms(settings)


def test_the_filters_are_told_every_secret(load):
    """A password as it stands in its URL and as it is."""
    assert set(load(**SECRETS).secrets()) == {
        "sk-or-v1-canary-one",
        "sk-or-v1-canary-two",
        "sk-or-v1-canary-three",
        "AIza-canary-four",
        "canary%2Ffive",
        "canary/five",
        "canary-six",
        "canary-seven",
        "canaryeight",
    }


def test_a_password_behind_the_question_mark_is_a_secret_too(load):
    """redis-py takes it from there."""
    secrets = load(REDIS_URL="rediss://host?password=canary-nine&ssl_password=canary%2Bten").secrets()
    assert {"canary-nine", "canary+ten"} <= set(secrets)


def test_a_public_password_is_no_secret(load):
    """Masking it would mask every "gemini" in the logs."""
    assert load(RABBITMQ_URL="amqp://gemini:gemini@rabbitmq:5672").secrets() == [KEY]
