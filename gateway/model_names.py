"""What a model's name stands for, in a request or in a setting: the same for both providers. Pure."""

from collections.abc import Mapping
from typing import Final

#: What `gemini-pro` has meant so far, where nothing else is said.
USUAL_MODEL: Final = "google/gemini-2.5-flash"

#: In front of a name in Google's own lists; no vendor of OpenRouter.
_GOOGLES_FOLDER: Final = "models/"


def resolve(name: str | None, *, aliases: Mapping[str, str], default: str) -> str:
    """The model as OpenRouter names it; `None` and `gemini-pro` are the `default`, which goes the same way.

    `vendor/name` stays as it is. A bare name is looked up among the aliases; `gemini-*`, the older Gemini form, is
    `google/gemini-*`. What an alias stands for may be in the older form, too; it is no other alias.
    """
    usual = _full(default, aliases, USUAL_MODEL)
    return _full(name, aliases, usual) if name else usual


def bare(model: str) -> str:
    """The model as Google's own API names it."""
    return model.removeprefix("google/")


def _full(name: str, aliases: Mapping[str, str], usual: str) -> str:
    name = name.removeprefix(_GOOGLES_FOLDER)
    if "/" in name:
        return name
    name = aliases.get(name, name).removeprefix(_GOOGLES_FOLDER)
    if name == "gemini-pro":  # retired by Google; older producers still send it and mean "the usual"
        return usual
    return f"google/{name}" if name.startswith("gemini-") else name
