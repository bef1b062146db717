"""What a request may hold beside a prompt, as OpenRouter's chat API has it: messages, tools, formats.

The shape is checked, and what was given is kept to the last key: what the API learns tomorrow goes through today, and
nothing is dropped. Error texts name places and never values. Source: https://openrouter.ai/docs/api-reference/overview
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    StringConstraints,
    Tag,
    with_config,
)
from pydantic.functional_validators import WrapValidator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from gateway.fields import Whole

T = TypeVar("T")

#: A list of which the first fault is told: to list the faults of a hundred thousand items takes many seconds.
Many = Annotated[list[T], Field(min_length=1, fail_fast=True)]

_OPEN = ConfigDict(extra="allow")

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text = Annotated[str, StringConstraints(min_length=1)]


def _as_given(value: Any, check: Any) -> Any:
    check(value)
    return value


#: A serializer of our own, because a typed one leaves nulls out.
_Plain = PlainSerializer(lambda value: value)
#: A type that is checked and not changed.
AsGiven = Annotated[T, WrapValidator(_as_given), _Plain]


def _form(value: Any) -> str:
    """Which of its forms a value has: so that only the faults of that one are told."""
    if isinstance(value, list):
        return "list"
    return "object" if isinstance(value, dict) else "text"


def _one_of(*forms: str) -> Discriminator:
    message = f"should be a {' or a '.join(forms)}"
    return Discriminator(_form, custom_error_type="form", custom_error_message=message)


@with_config(_OPEN)
class ImageUrl(TypedDict):
    url: Annotated[str, StringConstraints(pattern=r"^(https?://|data:).")]


@with_config(_OPEN)
class File(TypedDict):
    filename: NotRequired[str]
    file_data: NotRequired[str]


@with_config(_OPEN)
class Part(TypedDict):
    """A part of a message; what it holds lies under the name of its type."""

    type: Literal["text", "image_url", "file", "input_audio", "video_url"]
    text: NotRequired[str]
    image_url: NotRequired[ImageUrl]
    file: NotRequired[File]
    input_audio: NotRequired[dict[str, Any]]
    video_url: NotRequired[dict[str, Any]]


@with_config(_OPEN)
class CalledFunction(TypedDict):
    name: Name
    arguments: str


def _whole_part(part: Any) -> Any:
    if part["type"] not in part:
        raise PydanticCustomError("part", "a part holds what it has under the name of its type")
    return part


_Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[Many[Annotated[Part, AfterValidator(_whole_part)]], Tag("list")],
    _one_of("text", "list"),
]


@with_config(_OPEN)
class ToolCall(TypedDict):
    id: Name
    type: Literal["function"]
    function: CalledFunction


@with_config(_OPEN)
class _Message(TypedDict):
    role: Literal["system", "user", "assistant", "tool"]
    content: NotRequired[_Content | None]
    tool_calls: NotRequired[Annotated[list[ToolCall], Field(fail_fast=True)] | None]
    tool_call_id: NotRequired[Name | None]


@with_config(_OPEN)
class _Named(TypedDict):
    name: Name


@with_config(_OPEN)
class _Tool(TypedDict):
    type: Name
    function: NotRequired[_Named]


@with_config(_OPEN)
class _Format(TypedDict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NotRequired["_JsonSchema"]


@with_config(_OPEN)
class _JsonSchema(TypedDict):
    schema: dict[str, Any]


@with_config(_OPEN)
class _Reasoning(TypedDict):
    effort: NotRequired[Name]
    max_tokens: NotRequired[Annotated[Whole, Field(ge=0)]]
    enabled: NotRequired[bool]
    exclude: NotRequired[bool]


def _whole_message(message: Any) -> Any:
    if message["role"] == "tool" and not message.get("tool_call_id"):
        raise PydanticCustomError("message", "a message of role tool needs a tool_call_id")
    if not message.get("content") and not (message["role"] == "assistant" and message.get("tool_calls")):
        raise PydanticCustomError("message", "a message needs content")
    return message


def _whole_tool(tool: Any) -> Any:
    if tool["type"] == "function" and "function" not in tool:
        raise PydanticCustomError("tool", "a tool of type function needs a function")
    return tool


def _whole_choice(choice: Any) -> Any:
    if isinstance(choice, Mapping):
        if not isinstance(choice.get("type"), str):
            raise PydanticCustomError("tool_choice", "an object needs a type")
    elif choice not in {"none", "auto", "required"}:
        raise PydanticCustomError("tool_choice", "should be none, auto, required or an object")
    return choice


def _whole_format(given: Any) -> Any:
    if given["type"] == "json_schema" and "json_schema" not in given:
        raise PydanticCustomError("response_format", "a format of type json_schema needs json_schema.schema")
    return given


Message = AsGiven[Annotated[_Message, AfterValidator(_whole_message)]]
Tool = AsGiven[Annotated[_Tool, AfterValidator(_whole_tool)]]
ToolChoice = Annotated[
    Annotated[str, Tag("text")] | Annotated[dict[str, Any], Tag("object")],
    _one_of("text", "object"),
    AfterValidator(_whole_choice),
]
Stop = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Many[Text], Tag("list")],
    _one_of("text", "list"),
]
ResponseFormat = AsGiven[Annotated[_Format, AfterValidator(_whole_format)]]
Reasoning = Annotated[_Reasoning, _Plain]  # not as given: 1024.0 is 1024
