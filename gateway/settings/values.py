"""The types of settings that are no URLs: from the text of an environment variable to a checked value.

Pure but for the files of certificates that are named.

A ValueError says what to give, and never repeats what was given: any of these texts could be a secret in the wrong
place.
"""

import json
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr
from pydantic_settings import NoDecode

from gateway.settings.quotes import unquoted

#: The longest wait that may be configured, in seconds: a week.
LONGEST_DELAY_S = 7 * 86400.0

#: The shortest one: RabbitMQ counts in milliseconds.
SHORTEST_DELAY_S = 0.001

#: How many waits a schedule may have; each distinct one is a queue.
MOST_DELAYS = 15

#: The longest name of a field in `metadata`, in characters.
LONGEST_FIELD = 100

#: How short a password of the page may be, in characters: ten guesses a minute lead nowhere then.
SHORTEST_PASSWORD = 12

#: Names that the worker's own queues begin with, and so no other queue may have.
OWN_PREFIXES = ("gemini.generate", "gemini.batch", "gemini.callbacks", "gemini.requests.dead")

#: What either provider can be asked for: nothing that a path or a URL gives a meaning to.
_MODEL = re.compile(r"(?!.*\.\.)[A-Za-z0-9~@][A-Za-z0-9._:/@~+-]{0,199}")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def _from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """`parse` for what stands in an environment; a default is a value already."""
    return BeforeValidator(lambda given: parse(given) if isinstance(given, str) else given)


def _delays(text: str) -> tuple[float, ...]:
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


def _aliases(text: str) -> dict[str, str]:
    """A JSON object, or `alias=model` pairs separated by commas."""
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else _pairs(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(
        isinstance(model, str) and alias and _MODEL.fullmatch(model) for alias, model in found.items()
    ):
        raise ValueError("give alias=model, separated by commas, or a JSON object of names")
    if any("/" in alias for alias in found):
        raise ValueError("an alias has no / in it: a name with a vendor goes out as it is, and is never looked up")
    return found


def _pairs(text: str) -> dict[str, str]:
    pairs = [unquoted(part).partition("=") for part in text.split(",") if part.strip()]
    return {unquoted(alias).strip(): unquoted(model).strip() for alias, _, model in pairs}


def _password(password: SecretStr) -> SecretStr:
    if len(password.get_secret_value()) < SHORTEST_PASSWORD:
        raise ValueError(f"give {SHORTEST_PASSWORD} characters or more")
    return password


def _model(name: str) -> str:
    name = name.strip()
    if not _MODEL.fullmatch(name):
        raise ValueError("give the name of a model, as vendor/name: up to 200 letters, digits and . _ : / @ ~ + -")
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


def _field(name: str) -> str:
    name = name.strip()
    if not name or len(name) > LONGEST_FIELD or _CONTROLS.search(name):
        raise ValueError(f"give the name of one field in metadata: 1 to {LONGEST_FIELD} characters")
    return name


def _ca_file(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError):  # ssl's own error is an OSError
        raise ValueError("give a file of certificates in PEM form that this user may read") from None
    return path


def _file(path: Path) -> Path:
    if not path.name:  # `.`, `/`
        raise ValueError("give a file, this is a folder")
    return path


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError):
        raise ValueError(r"give a regular expression, as in backend\.responses\..*") from None
    return text


Delays = Annotated[tuple[float, ...], NoDecode, _from_text(_delays), AfterValidator(_possible)]
Aliases = Annotated[
    Mapping[str, str],
    NoDecode,
    _from_text(_aliases),
    AfterValidator(MappingProxyType),
    PlainSerializer(dict, return_type=dict[str, str]),
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ModelName = Annotated[str, AfterValidator(_model)]
QueueName = Annotated[str, AfterValidator(_queue)]
FieldName = Annotated[str, AfterValidator(_field)]
Password = Annotated[SecretStr, AfterValidator(_password)]
HeaderText = Annotated[str, AfterValidator(_header)]
CaFile = Annotated[Path, AfterValidator(_ca_file)]
OwnFile = Annotated[Path, AfterValidator(_file)]
Pattern = Annotated[str, AfterValidator(_pattern)]
UpperCase = _from_text(lambda text: text.strip().upper())
LowerCase = _from_text(lambda text: text.strip().lower())
