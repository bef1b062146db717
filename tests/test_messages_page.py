"""docs/messages.md and the README: their examples work, and their lists are whole."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.gate import Sender, admit
from gateway import structured
from gateway.errors import ErrorCode
from gateway.messages import Cancel, Delta, Failure, Parameters, Request, Success

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "messages.md").read_text()


def examples() -> list[dict[str, Any]]:
    texts = [PAGE, (ROOT / "README.md").read_text()]
    block = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [json.loads(found) for text in texts for found in block.findall(text)]


def first_column(heading: str) -> set[str]:
    """What is in code in the first cells of the tables below a heading."""
    section = re.split(r"^#+ ", PAGE.split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("example", [e for e in examples() if "prompt" in e or "messages" in e])
def test_an_example_of_a_request_is_taken(example: dict[str, Any]):
    """With all that it has."""
    request = admit(json.dumps(example).encode(), Sender(), default_callback="q", refusal=lambda _queue: None)
    structured.admit(request)
    assert request.model_dump(mode="json", exclude_unset=True) == example


@pytest.mark.parametrize("example", [e for e in examples() if "cancel" in e])
def test_an_example_of_a_cancel_is_one(example: dict[str, Any]):
    """With all that it has."""
    cancel = admit(json.dumps(example).encode(), Sender(), default_callback="q", refusal=lambda _queue: None)
    assert cancel == Cancel.model_validate(example)


@pytest.mark.parametrize("example", [e for e in examples() if "status" in e])
def test_an_example_of_an_envelope_is_one(example: dict[str, Any]):
    """Every field that it shows is there."""
    kind = {"success": Success, "error": Failure}[example["status"]]
    assert kind.model_validate(example).model_dump(mode="json", exclude_unset=True) == example


@pytest.mark.parametrize("example", [e for e in examples() if "seq" in e])
def test_an_example_of_a_delta_is_one(example: dict[str, Any]):
    """With all that it has."""
    assert Delta.model_validate(example).model_dump(mode="json") == example
    assert example.keys() == Delta.model_fields.keys()


def test_every_field_parameter_and_code_is_on_the_page():
    """And none that is not there."""
    assert first_column("Parameters") == Parameters.model_fields.keys()
    assert first_column("Request, to `gemini.requests`") == Request.model_fields.keys()
    assert first_column("Error codes") == {code.value for code in ErrorCode} | {"error_code"}
    for field in Success.model_fields.keys() | Failure.model_fields.keys():
        assert re.search(rf"[`\"]{field}[`\"]", PAGE), field
