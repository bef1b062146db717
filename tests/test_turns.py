"""Whose turn it is: shares of lanes, and queues one after the other."""

import pytest

from bridge.turns import LOOK_EVERY_S, SORTED_AS_ONE, Turns
from gateway.lanes import Lane
from tests.clock import Clock

BATCH = "gemini.batch"


def turns_of(share: float, *, clock: Clock | None = None) -> Turns:
    return Turns({Lane.BATCH: (BATCH,)}, share=share, clock=clock or Clock())


def served(turns: Turns, count: int) -> list[Lane]:
    """Who is served while both lanes wait."""
    found = []
    for _ in range(count):
        turns.filled(BATCH)
        lane = turns.order[0]
        turns.served(lane)
        found.append(lane)
    return found


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_while_both_wait_batch_has_its_share(share: float):
    """No less, or it would starve; and one more at most."""
    assert served(turns_of(share), 1000).count(Lane.BATCH) == pytest.approx(1000 * share, abs=1)


def test_a_share_is_not_saved_up():
    """A batch that comes after an hour of interactive requests has its share from then on, and no more."""
    turns = turns_of(0.1)
    for _ in range(1000):
        turns.served(Lane.INTERACTIVE)
    assert served(turns, 9) == [Lane.INTERACTIVE] * 9
    assert turns.order[0] is Lane.BATCH


def test_requests_that_are_sorted_out_without_end_do_not_make_batch_starve():
    """A producer that is faster than this process: whoever is behind them is looked for, and batch has its share."""
    turns = turns_of(0.5)
    turns.filled(BATCH)
    for _ in range(SORTED_AS_ONE):
        assert turns.order[0] is Lane.INTERACTIVE
        turns.sorted_out()
    assert turns.order[0] is Lane.BATCH


def test_an_empty_queue_is_looked_into_a_second_later():
    """Unless this process has put something in; others do so, too."""
    turns = turns_of(0.1, clock=(clock := Clock()))
    assert turns.due(Lane.BATCH) == [BATCH]
    turns.empty(BATCH)
    assert (turns.due(Lane.BATCH), turns.somebody_waits) == ([], False)
    assert turns.next_look_at == clock() + LOOK_EVERY_S
    clock.advance(LOOK_EVERY_S)
    assert turns.due(Lane.BATCH) == [BATCH]
    turns.empty(BATCH)
    turns.filled(BATCH)
    assert (turns.due(Lane.BATCH), turns.somebody_waits) == ([BATCH], True)


def test_a_lane_without_a_key_rests():
    """Nobody looks there, and nobody waits there, until that is over."""
    turns = turns_of(1.0, clock=(clock := Clock()))
    turns.filled(BATCH)
    turns.rest(Lane.BATCH, 5.0)
    assert (turns.due(Lane.BATCH), turns.somebody_waits, turns.rests(Lane.BATCH)) == ([], False, True)
    assert turns.order[0] is Lane.INTERACTIVE
    clock.advance(5.0)
    assert (turns.due(Lane.BATCH), turns.somebody_waits, turns.rests(Lane.BATCH)) == ([BATCH], True, False)


def test_queues_of_a_lane_take_turns():
    """However much lies in one of them."""
    queues = ("a", "b", "c")
    turns = Turns({Lane.INTERACTIVE: queues}, share=0.1, clock=Clock())
    turns.empty("b")
    found = []
    for _ in range(4):
        found.append(turns.due(Lane.INTERACTIVE)[0])
        turns.found(found[-1])
    assert found == ["a", "c", "a", "c"]


def test_a_process_that_has_no_lanes_waits_for_none():
    """`python -m bridge` takes nothing from them."""
    turns = Turns({}, share=0.5)
    turns.filled(BATCH)
    turns.found(BATCH)
    turns.empty(BATCH)
    assert (turns.somebody_waits, turns.next_look_at, BATCH in turns) == (False, float("inf"), False)
