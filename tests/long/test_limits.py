"""Every recorded answer of the providers, given once to a running worker: what rests, and which keys are used next."""

from pathlib import Path

import pytest

from tests.system.test_limits import Ground, effect_of_gemini, effect_of_openrouter, gemini, openrouter
from tests.test_responses import samples

__all__ = ["gemini", "openrouter"]

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]


@pytest.mark.parametrize("path", samples("openrouter"))
def test_each_answer_of_openrouter_has_its_effect(openrouter: Ground, path: Path):
    """To the request, to the keys, to its model."""
    effect_of_openrouter(openrouter, path)


@pytest.mark.parametrize("path", samples("gemini"))
def test_each_answer_of_gemini_has_its_effect(gemini: Ground, path: Path):
    """The same effects, from another dialect."""
    effect_of_gemini(gemini, path)
