"""The lane of a request, and its tag."""

from typing import Any

import pytest

from gateway.lanes import Lane, lane_of
from gateway.messages import Job, Request
from gateway.tags import LONGEST_TAG, tag_of


def request(**fields: Any) -> Request:
    return Request(request_id="r-1", prompt="Hello", callback_queue="q", **fields)


@pytest.mark.parametrize("priority", [None, 0, 4, 9, 255, -1, "1", 1.0, True])
def test_a_request_that_says_nothing_is_interactive(priority: object):
    """0 is what many clients write unasked."""
    assert lane_of(None, priority) is Lane.INTERACTIVE


@pytest.mark.parametrize("priority", [1, 2, 3])
def test_a_lower_amqp_priority_is_batch(priority: int):
    """4 is the normal one where there is a normal one."""
    assert lane_of(None, priority) is Lane.BATCH


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("priority", [None, 0, 1, 9])
def test_the_field_wins_over_the_property(lane: Lane, priority: int | None):
    """As everywhere: a property is a stand-in."""
    assert lane_of(lane.value, priority) is lane


def test_an_older_message_of_ours_is_interactive():
    """It lies in a queue while the worker is updated; and the lane comes back from the wire."""
    new = Job.of(request(), received_at=1.0, lane=Lane.BATCH)
    assert Job.model_validate_json(new.model_dump_json()).lane is Lane.BATCH
    assert Job.model_validate(new.model_dump(exclude={"lane"})).lane is Lane.INTERACTIVE


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("acme", "acme"),
        (42, "42"),
        ("a\nb\x1b", "a\\nb\\x1b"),
        ("", None),
        (None, None),
        (True, None),
        (1.5, None),
        (["acme"], None),
        ({"a": "b"}, None),
    ],
)
def test_a_tag_is_a_text_or_a_whole_number(value: object, tag: str | None):
    """And what may be shown: no control characters."""
    assert tag_of(request(metadata={"tenant": value}), "tenant") == tag


def test_without_metadata_or_a_name_of_a_field_there_is_no_tag():
    """That is the default."""
    assert tag_of(request(), "tenant") is None
    assert tag_of(request(metadata={"other": "acme"}), "tenant") is None
    assert tag_of(request(metadata={"tenant": "acme"}), None) is None


def test_a_long_tag_is_cut():
    """It is kept in memory and shown."""
    tag = tag_of(request(metadata={"tenant": "x" * 10_000}), "tenant")
    assert tag is not None
    assert len(tag) == LONGEST_TAG
