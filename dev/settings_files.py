"""Writes the files that list the settings, or says which of them are out of date; see script/settings."""

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import AliasChoices

from dev.launcher import ROOT
from gateway.settings import Settings
from gateway.settings.fields import default_of

#: The groups, and the setting that each begins with.
GROUPS = {
    "RabbitMQ": "RABBITMQ_URL",
    "The worker's size, read by the Procfile and the image": "WORKER_PROCESSES",
    "OpenRouter": "OPENROUTER_API_KEYS",
    "Gemini directly, only when no OpenRouter key is set": "GEMINI_API_KEYS",
    "Keys and waits": "KEYS_MAX_PER_MINUTE",
    "State": "REDIS_URL",
    "What it tells": "LOG_LEVEL",
    "The page for operators, only for `python -m console.web`": "CONSOLE_PASSWORD",
}

#: What the Procfile's shell reads, and no process of ours; the defaults are in the Procfile.
OF_THE_PROCFILE = {
    "WORKER_PROCESSES": "Processes of a worker; about 100 MB each.",
    "WORKER_THREADS": "Calls at a time in each process.",
}

#: Without these nothing works.
REQUIRED = frozenset({"OPENROUTER_API_KEYS"})

#: What Heroku asks for when somebody deploys; its add-ons set the URLs.
OF_HEROKU = (
    "OPENROUTER_API_KEYS",
    "OPENROUTER_MODEL",
    "KEYS_MAX_PER_MINUTE",
    "WORKER_PROCESSES",
    "WORKER_THREADS",
    "OPENROUTER_SITE_URL",
    "OPENROUTER_SITE_NAME",
    "LOG_LEVEL",
    "SENTRY_ENVIRONMENT",
    "REDIS_TLS_VERIFY",
)

#: Where Heroku is not as others are.
VALUES_OF_HEROKU = {"REDIS_TLS_VERIFY": "false"}

PAGE = """\
<!-- Written by script/settings from gateway/settings/fields.py: change it there. -->
# Settings

From the environment or a file `.env` in the current folder; the environment wins, and an empty value counts as not set.
Names are in upper case; quotes around a value are taken off. `.env.example` has them all, ready to copy. Bad settings
are reported all at once, and the process ends with code 78. Delays are in seconds and may have fractions.
"""

EXAMPLE = """\
# Every setting of the worker. Copy to .env and take the # away from what you change; what is left out has the
# default that stands here. The environment wins over .env, and an empty value counts as not set. Delays are in seconds
# and may have fractions. (Written by script/settings from gateway/settings/fields.py: change it there.)
"""


@dataclass(frozen=True)
class Setting:
    """What there is to know about one setting; `text` may have words in backticks."""

    name: str
    default: str
    text: str
    other_names: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        return self.text.replace("`", "")


def main() -> int:
    files = {"docs/settings.md": page(), ".env.example": example(), "app.json": app()}
    stale = {name: text for name, text in files.items() if _read(name) != text}
    if "--check" in sys.argv[1:]:
        if stale:
            print(f"{', '.join(stale)}: not what the settings say of themselves. Run script/settings", file=sys.stderr)
        return bool(stale)
    for name, text in stale.items():
        (ROOT / name).write_text(text, encoding="utf-8")
        print(f"{name}: written")
    return 0


def page() -> str:
    """docs/settings.md: a table for each group."""
    parts = [PAGE]
    for heading, settings in groups():
        parts.append(f"\n## {heading}\n\n| setting | default | |\n|---|---|---|\n")
        for setting in settings:
            default = f"`{setting.default}` " if setting.default else ""
            parts.append(f"| `{setting.name}` | {default}| {setting.text} |\n")
    return "".join(parts)


def example() -> str:
    """.env.example: every default, behind a # where nothing has to be filled in."""
    return "".join([EXAMPLE, *(line for group in groups() for line in _lines(*group))])


def _lines(heading: str, settings: Iterable[Setting]) -> Iterator[str]:
    yield "\n" + f"# --- {heading} ".ljust(120, "-") + "\n"
    for setting in settings:
        yield textwrap.fill(setting.plain, 120, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        yield f"\n{'' if setting.name in REQUIRED else '#'}{setting.name}={setting.default}\n"
        yield from (f"#{name}=\n" for name in setting.other_names)


def app() -> str:
    """app.json as it is, with the settings that Heroku asks for as its `env`."""
    known = {setting.name: setting for _, settings in groups() for setting in settings}
    env = json.dumps({name: _of_heroku(known[name]) for name in OF_HEROKU}, indent=2, ensure_ascii=False)
    indented = env.replace("\n", "\n  ")
    return re.sub(r'(?<=\n  "env": )\{.*?\n  \}', lambda _: indented, _read("app.json"), flags=re.DOTALL)


def _of_heroku(setting: Setting) -> dict[str, str | bool]:
    default = VALUES_OF_HEROKU.get(setting.name, setting.default)
    value: dict[str, str | bool] = {"value": default} if default else {"required": False}
    return {"description": setting.plain} | ({} if setting.name in REQUIRED else value)


def groups() -> list[tuple[str, list[Setting]]]:
    """Every setting, under its heading."""
    settings = [_of_field(field) for field in Settings.model_fields]
    names = [setting.name for setting in settings]
    at = names.index("OPENROUTER_API_KEYS")
    settings[at:at], names[at:at] = list(_of_the_procfile()), list(OF_THE_PROCFILE)
    starts = [names.index(first) for first in GROUPS.values()]
    return [
        (heading, settings[start:end]) for heading, start, end in zip(GROUPS, starts, [*starts[1:], None], strict=True)
    ]


def _of_field(name: str) -> Setting:
    field = Settings.model_fields[name]
    alias = field.validation_alias
    first, *others = map(str, alias.choices) if isinstance(alias, AliasChoices) else [name.upper()]
    return Setting(first, default_of(name), " ".join((field.description or "").split()), tuple(others))


def _of_the_procfile() -> Iterator[Setting]:
    defaults = dict(re.findall(r"\$\{(\w+):-(\d+)\}", _read("Procfile")))
    return (Setting(name, defaults[name], text) for name, text in OF_THE_PROCFILE.items())


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""


if __name__ == "__main__":
    sys.exit(main())
