"""Why a model stopped: the words of the providers, and the few that they mean."""

import pytest

from gateway.providers.endings import ENDINGS, Ending, ending


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (("stop", "STOP"), Ending.STOP),
        (("length", "MAX_TOKENS"), Ending.LENGTH),
        (("stop", "SAFETY"), Ending.CONTENT_FILTER),
        (("stop", "max_tokens"), Ending.LENGTH),
        (("length", "SAFETY"), Ending.LENGTH),
        ((None, "end_turn"), Ending.STOP),
        (("tool-calls", None), Ending.TOOL_CALLS),
        (("brand_new", "tool_use"), Ending.TOOL_CALLS),
        (("brand_new", None), Ending.OTHER),
        (("stop", "brand_new"), Ending.STOP),
        ((None, None), None),
        (("", 7), None),
    ],
)
def test_the_reason_that_says_more_counts(reasons, expected):
    """The normalised one first; a plain `stop` does not hide what the provider itself says."""
    assert ending(*reasons) is expected


def test_every_word_means_one_thing_and_is_in_lower_case():
    assert all(word == word.lower() for word in ENDINGS)
    assert set(ENDINGS.values()) == set(Ending)
