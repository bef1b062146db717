"""Calls of tools in an answer, in the form of OpenAI's API, which OpenRouter has: whole, or in pieces of a stream."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from gateway.providers.values import as_json, mapping, string


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call, or a piece of one. What its arguments are is for the producer to read.

    Pieces with one `index` are one call, unless they name two: some servers number every call 0.
    """

    index: int
    id: str
    name: str
    arguments: str = field(repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, given: Mapping[str, Any], *, index: int) -> Self:
        """The call in OpenAI's form. Arguments are JSON in a text; some servers leave the text out."""
        function = mapping(given.get("function"))
        arguments = function.get("arguments")
        text = string(arguments) if isinstance(arguments, str | None) else as_json(arguments)
        return cls(index, string(given.get("id")), string(function.get("name")), text)


def joined(pieces: Iterable[ToolCall]) -> tuple[ToolCall, ...]:
    """The calls that the pieces make, in their order; without those that name no tool."""
    calls: list[ToolCall] = []
    begun: dict[int, int] = {}  # where in `calls` the latest of an index is
    for piece in pieces:
        at = begun.get(piece.index)
        if at is None or (piece.id and calls[at].id not in {"", piece.id}):
            begun[piece.index] = len(calls)
            calls.append(piece)
            continue
        call = calls[at]
        calls[at] = replace(
            call, id=call.id or piece.id, name=call.name or piece.name, arguments=call.arguments + piece.arguments
        )
    return tuple(call for call in calls if call.name)


def as_told(calls: Iterable[ToolCall]) -> list[dict[str, Any]] | None:
    """As an envelope has them, and the next request gives them back; each has an id. None where there are none."""
    told = [
        {
            "id": call.id or f"call_{number}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
            **call.extra,
        }
        for number, call in enumerate(calls, 1)
    ]
    return told or None
