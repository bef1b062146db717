"""The tables of docs/messages.md: each stands between two comments, one of which names its model."""

import re
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gateway.messages import Cancel, Delta, Failure, Parameters, Request, Success, Usage

MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (Request, Parameters, Cancel, Delta, Success, Usage, Failure)
}

_TABLE = re.compile(r"(<!-- (\w+): script/contract -->\n).*?(?=<!-- end -->)", re.DOTALL)

_NAMES = {str: "text", int: "integer", float: "number", bool: "boolean", dict: "object", list: "list"}

#: What other properties, or another field, may stand in for.
_NOT_REQUIRED = {"Request": {"request_id", "callback_queue"}}


def with_tables(page: str) -> str:
    """The page with its tables as the models have them."""
    return _TABLE.sub(lambda found: found[1] + "".join(_table(MODELS[found[2]])), page)


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| field | type | default | |\n|---|---|---|---|\n"
    for name, field in model.model_fields.items():
        text = " ".join((field.description or "").split())
        yield f"| `{name}` | {_type(field.annotation)} | {_default(model, name, field)} | {text} |\n"


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "" if name in _NOT_REQUIRED.get(model.__name__, ()) else "required"
    if field.default is None or isinstance(field.default, BaseModel):
        return ""
    return f"`{str(field.default).lower()}`"


def _type(kind: Any) -> str:
    """In JSON's words."""
    return " or ".join(dict.fromkeys(_words(kind)))


def _words(kind: Any) -> Iterator[str]:
    parts = get_args(kind)
    if (isinstance(kind, type) and kind in _NAMES) or get_origin(kind) in {dict, list}:
        yield _NAMES[get_origin(kind) or kind]
    elif isinstance(kind, str) or (isinstance(kind, type) and issubclass(kind, str)):
        yield "text"
    elif parts:  # a union, a literal, or a type with metadata
        yield from (word for one in parts for word in _words(one))
    elif isinstance(kind, type) and issubclass(kind, dict | BaseModel):
        yield "object"
