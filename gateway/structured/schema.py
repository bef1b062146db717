"""JSON schemas of strangers: nothing is fetched, and no schema and no answer keeps a worker busy for long.

A schema is bounded in size, its references point into it, and its patterns are matched in linear time: Python's own
engine takes a lifetime for `(a+)+$`. What is left, as references that double at each step, is bounded by a budget of
steps, in which other requests get their turns.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

from jsonschema import Draft7Validator, Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from gateway.structured.patterns import MAX_WEIGHT, UnusablePattern, compiled, weight

MAX_SCHEMA_BYTES: Final = 64 * 1024

#: How deep keywords may be in each other in one check. Python's own bound is no better one: where it is reached in the
#: Rust code below jsonschema, that panics.
MAX_NESTED = 100

#: A step takes some 5 to 10 µs. An answer of 250 kB, of small objects, has fewer.
MAX_STEPS: Final = 300_000
#: After so many steps others get a turn.
_STEPS_OF_A_TURN: Final = 1_000
#: What is done in the time of one step: characters of an error's text, and states of a pattern times characters.
_CHARS_A_STEP: Final = 64
_STATES_A_STEP: Final = 1_000

#: How many schemas that passed are remembered: producers use few.
_REMEMBERED: Final = 64

_REFUSED: Final = frozenset(
    {"patternProperties", "unevaluatedProperties", "unevaluatedItems", "$anchor", "$id", "$schema"}
    | {"$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor"}
)
#: Where schemas lie in a schema: under names, in a list, or as they are. All else is data.
_NAMED: Final = ("properties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTED: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SINGLE: Final = (
    *("additionalProperties", "additionalItems", "propertyNames", "items", "contains"),
    *("not", "if", "then", "else"),
)

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class UnusableSchema(Exception):
    """Answers cannot be checked against it; the text says why and quotes nothing of it but keywords."""


class TooCostly(Exception):
    """The steps are used up."""


class _Budget:
    def __init__(self) -> None:
        self._left = MAX_STEPS
        self._turn_ends_at = MAX_STEPS - _STEPS_OF_A_TURN
        self._depth = 0

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooCostly
        if self._left < self._turn_ends_at:
            self._turn_ends_at = self._left - _STEPS_OF_A_TURN
            time.sleep(0)

    @contextmanager
    def one_deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_NESTED:
            raise TooCostly
        try:
            yield
        finally:
            self._depth -= 1


_budget: ContextVar[_Budget] = ContextVar("budget")


@dataclass(frozen=True)
class Schema:
    """A schema that answers can be checked against."""

    _validator: Validator

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> "Schema":
        """Raises UnusableSchema."""
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise UnusableSchema(f"the schema is larger than {MAX_SCHEMA_BYTES} bytes")
        return _usable(text)

    def first_fault(self, answer: Any) -> str | None:
        """The keyword that `answer` does not hold, None when it holds the schema. Raises TooCostly."""
        return _first_fault(self._validator, answer)


@lru_cache(maxsize=_REMEMBERED)
def _usable(text: str) -> Schema:
    given = json.loads(text)
    draft = _draft(given.get("$schema", _DEFAULT_DRAFT))
    schema = {name: value for name, value in _without_draft(given).items() if name != "$id"}
    found = dict(_subschemas(schema, "#"))
    for inner in found.values():
        _look_at(inner, found)
    _compile(found)
    try:
        keyword = _first_fault(draft(_without_draft(draft.META_SCHEMA), registry=_METASCHEMAS), schema)
    except TooCostly:
        raise UnusableSchema("the schema is too large") from None
    if keyword is not None:
        raise UnusableSchema("the schema is no JSON schema")
    return Schema(draft(schema, registry=Registry()))


def _draft(name: Any) -> Any:
    draft = _DRAFTS.get(name.rstrip("#")) if isinstance(name, str) else None
    if draft is None:
        raise UnusableSchema(f"$schema should be one of {', '.join(_DRAFTS)}, or left out")
    return draft


def _without_draft(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Where a schema names its draft jsonschema goes on with the draft's own validator, which is not bounded."""
    return {name: value for name, value in schema.items() if name != "$schema"}


def _subschemas(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every schema in `schema`, itself included, by its JSON pointer."""
    yield place, schema
    if not isinstance(schema, dict):
        return
    for keyword in _NAMED:
        if isinstance(named := schema.get(keyword), dict):
            for name, inner in named.items():
                yield from _subschemas(inner, f"{place}/{keyword}/{name.replace('~', '~0').replace('/', '~1')}")
    for keyword in _LISTED:
        if isinstance(listed := schema.get(keyword), list):
            for number, inner in enumerate(listed):
                yield from _subschemas(inner, f"{place}/{keyword}/{number}")
    for keyword in _SINGLE:
        if isinstance(inner := schema.get(keyword), dict):
            yield from _subschemas(inner, f"{place}/{keyword}")


def _look_at(schema: Any, found: Mapping[str, Any]) -> None:
    if not isinstance(schema, dict):
        return
    if unknown := sorted(_REFUSED & schema.keys()):
        raise UnusableSchema(f"{unknown[0]} is not supported in a schema")
    if "$ref" in schema and unquote(str(schema["$ref"])) not in found:
        raise UnusableSchema("a $ref points to no schema inside the schema itself")


def _compile(found: Mapping[str, Any]) -> None:
    texts = {inner["pattern"] for inner in found.values() if _has_pattern(inner)}
    try:
        total = sum(weight(text) for text in texts)
        for text in texts if total <= MAX_WEIGHT else ():
            compiled(text)
    except UnusablePattern as error:
        raise UnusableSchema(str(error)) from None
    if total > MAX_WEIGHT:
        raise UnusableSchema("the patterns are too large")


def _has_pattern(schema: Any) -> bool:
    return isinstance(schema, dict) and isinstance(schema.get("pattern"), str)


def _first_fault(validator: Any, instance: Any) -> str | None:
    token = _budget.set(_Budget())
    try:
        fault = next(validator.iter_errors(instance), None)
    except RecursionError:
        raise TooCostly from None
    finally:
        _budget.reset(token)
    return None if fault is None else str(fault.validator or "false")


def _bounded(keyword: Keyword) -> Keyword:
    def bounded(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        budget = _budget.get()
        budget.spend(1 + _size(value) + _size(instance))
        with budget.one_deeper():
            for fault in keyword(validator, value, instance, schema) or ():
                budget.spend(len(fault.message) // _CHARS_A_STEP)  # it quotes the whole instance
                yield fault

    return bounded


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _pattern(_validator: Any, pattern: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, str):
        return
    wanted = compiled(pattern)
    _budget.get().spend(wanted.states * len(instance) // _STATES_A_STEP)
    if not wanted.matches(instance):
        yield ValidationError("pattern")


def _unique_items(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """In one pass; jsonschema's compares each with each."""
    if wanted and isinstance(instance, list):
        texts = {json.dumps(_plain(item), sort_keys=True) for item in instance}
        if len(texts) < len(instance):
            yield ValidationError("uniqueItems")


def _plain(value: Any) -> Any:
    """So that equal values have equal texts: for JSON 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _limited(draft: Any) -> Any:
    keywords = {**draft.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique_items}
    return extend(draft, {name: _bounded(keyword) for name, keyword in keywords.items()})


#: Of the default draft, which is in several pieces.
_METASCHEMAS: Final = Registry().with_resources(
    (uri, DRAFT202012.create_resource(_without_draft(REGISTRY.contents(uri)))) for uri in REGISTRY if "2020-12" in uri
)

_DEFAULT_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS: Final[Mapping[str, Any]] = {
    _DEFAULT_DRAFT: _limited(Draft202012Validator),
    "http://json-schema.org/draft-07/schema": _limited(Draft7Validator),
}
