"""Reads the settings of a process, and says everything that is wrong with them at once."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.errors import GatewayError
from gateway.settings.conflicts import conflicts
from gateway.settings.fields import Settings, default_of


class SettingsError(GatewayError):
    """The settings cannot be used; the text has a line for every problem, and no value that was given."""


def load_settings(*, need_keys: bool = True) -> Settings:
    """The settings of this process. Raises SettingsError that names every problem at once.

    The bridge calls no provider and so needs no keys.
    """
    settings, problems = _read()
    for fields, text in conflicts(settings, need_keys=need_keys):
        # A field that has a problem of its own holds its default here: it says nothing about the others.
        if problems.keys().isdisjoint(fields):
            problems[fields[0]] = text
    if problems:
        lines = [f"  {name.upper()}: {text}" for name, text in problems.items()]
        raise SettingsError("\n".join(["The settings cannot be used:", *lines]))
    return settings


def _read(**fixed: Any) -> tuple[Settings, dict[str, str]]:
    """The settings, with defaults in place of what cannot be used, and what is wrong with that, by field."""
    try:
        return Settings(**fixed), {}
    except ValidationError as error:
        faults = error.errors(include_input=False)
    except (OSError, UnicodeDecodeError):
        settings, problems = _read(_env_file=None)
        return settings, {".env": "cannot be read: give a text file in UTF-8, readable for this user"} | problems
    problems = {_field(fault): _explain(fault) for fault in faults}
    defaults = {str(fault["loc"][0]): Settings.model_fields[_field(fault)].default for fault in faults}
    return Settings(**fixed, **defaults), problems


#: What to do about pydantic's own faults; its texts are for programmers.
_ADVICE = {
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "bool_parsing": "give true or false",
    "finite_number": "give a finite number",
    "greater_than": "give a number above {gt:g}",
    "greater_than_equal": "give a number from {ge:g} on",
    "less_than_equal": "give a number up to {le:g}",
    "literal_error": "give {expected}",
}


def _field(fault: ErrorDetails) -> str:
    return str(fault["loc"][0]).lower()


def _explain(fault: ErrorDetails) -> str:
    facts: dict[str, Any] = fault.get("ctx", {})
    text = str(facts["error"]) if "error" in facts else _ADVICE.get(fault["type"], "give another value").format(**facts)
    if _field(fault) == "rabbitmq_url":
        text += " (in RABBITMQ_URL, else CLOUDAMQP_URL)"
    default = default_of(_field(fault))
    return f"{text}; or leave it out" + (f" for {default}" if default else "")
