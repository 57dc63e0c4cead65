"""What follows from what is seen of a model: busy is not blocked."""

from gateway.health.model_health import DEAD, HUNG, LATE, PATIENCE, REFUSED, Watched
from triton_models.server.processes import Activity

LIMIT = 130.0
ASLEEP = Activity(ticks=100)
STOPPED = Activity(stopped=True, ticks=100)


def asked_at(now: float) -> Watched:
    """A model that has proved itself and was asked a moment later."""
    known = Watched(1, 10)
    known.prove(now)
    known.asked = now
    known.see([ASLEEP], now)
    return known


def test_a_model_that_was_never_asked_is_due_and_does_not_count_as_serving() -> None:
    known = Watched(1, 10)
    assert known.is_due(0.0)
    assert known.problem(0.0) is not None
    known.prove(0.0)
    assert known.problem(0.0) is None
    assert not known.is_due(0.1)


def test_what_others_had_computed_is_a_proof() -> None:
    known = asked_at(0.0)
    known.count(11, 5.0)
    assert known.silent(6.0) == 1.0
    assert known.problem(6.0) is None


def test_a_process_that_computes_is_not_blocked_however_long() -> None:
    known = asked_at(0.0)
    for look in range(1, 200):
        now = look / 4
        known.see([Activity(busy=look % 2 == 0, ticks=100 + 25 * look)], now)
        assert known.closed is None
        assert not known.is_hung(now, LIMIT)
    assert known.problem(PATIENCE - 1) is None
    assert known.problem(PATIENCE + 1) is not None
    # Once it has answered it is known to take so long.
    known.prove(50.0)
    known.asked = 60.0
    assert known.problem(60.0 + 2 * PATIENCE) is None
    assert known.is_hung(60.0 + LIMIT + 1, LIMIT)


def test_a_process_that_owes_an_answer_and_sleeps_is_blocked() -> None:
    known = asked_at(0.0)
    for look in range(HUNG):
        now = (look + 1) / 4
        assert (known.closed is not None) == (look >= LATE)
        assert not known.is_hung(now, LIMIT)
        known.see([ASLEEP], now)
    assert known.is_hung(4.0, LIMIT)
    known.prove(5.0)
    assert known.problem(5.0) is None


def test_a_process_that_owes_nothing_may_sleep() -> None:
    known = asked_at(0.0)
    known.asked = None
    for look in range(100):
        known.see([ASLEEP], look / 4)
    assert known.problem(25.0) is None


def test_one_of_several_processes_that_is_stopped_counts() -> None:
    known = asked_at(0.0)
    known.asked = None
    for look in range(LATE):
        known.see([ASLEEP, STOPPED], look / 4)
    assert known.problem(1.0) is not None


def test_this_process_held_up_for_long_says_nothing_about_the_model() -> None:
    known = asked_at(0.0)
    known.see([ASLEEP], 3600.0)
    assert known.closed is None
    assert not known.is_hung(PATIENCE, LIMIT)


def test_a_dead_process_closes_the_model_and_proofs_of_others_do_not_open_it() -> None:
    known = asked_at(0.0)
    for look in range(DEAD):
        assert not known.is_dead
        known.see([ASLEEP, Activity(ended=True)], look / 4)
    assert known.is_dead
    known.count(99, 1.0)
    assert known.problem(1.0) is not None
    known.prove(2.0)
    assert known.problem(2.0) is None


def test_a_process_that_triton_cannot_reach_is_ended() -> None:
    known = asked_at(0.0)
    known.refused = REFUSED
    known.see([Activity(busy=True)], 0.25)
    assert known.closed is not None
    assert known.is_hung(0.25, LIMIT)


def test_costly_models_are_asked_less_often() -> None:
    known = asked_at(0.0)
    known.asked = None
    assert known.is_due(1.0)
    known.took = 0.5
    assert not known.is_due(4.0)
    assert known.is_due(6.0)
