"""Ten thousand hostile bodies and six hundred forged messages, the same for the same seed, to the real processes."""

import pytest

from dev.rabbitmq import Server
from tests.system.conftest import MakeStack
from tests.system.test_fuzz import forge_messages, send_hostile_bodies

pytestmark = [pytest.mark.long, pytest.mark.system, pytest.mark.rabbitmq]


def test_ten_thousand_hostile_bodies_are_answered_or_kept(make_stack: MakeStack, rabbitmq_server: Server):
    """F1, F2, S1, S2, S6, S8."""
    send_hostile_bodies(make_stack, rabbitmq_server, share=1.0)


def test_six_hundred_forged_messages_are_kept_and_run_nothing(make_stack: MakeStack):
    """F3."""
    forge_messages(make_stack, count=200)
