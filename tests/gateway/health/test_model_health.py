"""What follows from what is seen of a model: busy is not blocked."""

from gateway.health.model_health import BLOCKED_POLLS, DEAD_POLLS, KILL_POLLS, PATIENCE, REFUSED, ModelHealth
from triton_models.server.processes import ProcessActivity

LIMIT = 130.0
ASLEEP = ProcessActivity(ticks=100)
STOPPED = ProcessActivity(stopped=True, ticks=100)


def asked_at(now: float) -> ModelHealth:
    """A model that has proved itself and was asked a moment later."""
    known = ModelHealth(1, 10)
    known.mark_healthy(now)
    known.probed_at = now
    known.observe_processes([ASLEEP], now)
    return known


def test_a_model_that_was_never_asked_is_due_and_does_not_count_as_serving() -> None:
    known = ModelHealth(1, 10)
    assert known.is_due(0.0)
    assert known.problem(0.0) is not None
    known.mark_healthy(0.0)
    assert known.problem(0.0) is None
    assert not known.is_due(0.1)


def test_what_others_had_computed_is_a_proof() -> None:
    known = asked_at(0.0)
    known.observe_count(11, 5.0)
    assert known.unanswered_for(6.0) == 1.0
    assert known.problem(6.0) is None


def test_a_process_that_computes_is_not_blocked_however_long() -> None:
    known = asked_at(0.0)
    for look in range(1, 200):
        now = look / 4
        known.observe_processes([ProcessActivity(busy=look % 2 == 0, ticks=100 + 25 * look)], now)
        assert not known.is_closed
        assert not known.is_hung(now, LIMIT)
    assert known.problem(PATIENCE - 1) is None
    assert known.problem(PATIENCE + 1) is not None
    # Once it has answered it is known to take so long.
    known.mark_healthy(50.0)
    known.probed_at = 60.0
    assert known.problem(60.0 + 2 * PATIENCE) is None
    assert known.is_hung(60.0 + LIMIT + 1, LIMIT)


def test_a_process_that_owes_an_answer_and_sleeps_is_blocked() -> None:
    known = asked_at(0.0)
    for look in range(KILL_POLLS):
        now = (look + 1) / 4
        assert known.is_closed == (look >= BLOCKED_POLLS)
        assert not known.is_hung(now, LIMIT)
        known.observe_processes([ASLEEP], now)
    assert known.is_hung(4.0, LIMIT)
    known.mark_healthy(5.0)
    assert known.problem(5.0) is None


def test_a_process_that_owes_nothing_may_sleep() -> None:
    known = asked_at(0.0)
    known.probed_at = None
    for look in range(100):
        known.observe_processes([ASLEEP], look / 4)
    assert known.problem(25.0) is None


def test_one_of_several_processes_that_is_stopped_counts() -> None:
    known = asked_at(0.0)
    known.probed_at = None
    for look in range(BLOCKED_POLLS):
        known.observe_processes([ASLEEP, STOPPED], look / 4)
    assert known.problem(1.0) is not None


def test_this_process_held_up_for_long_says_nothing_about_the_model() -> None:
    known = asked_at(0.0)
    known.observe_processes([ASLEEP], 3600.0)
    assert not known.is_closed
    assert not known.is_hung(PATIENCE, LIMIT)


def test_a_dead_process_closes_the_model_and_proofs_of_others_do_not_open_it() -> None:
    known = asked_at(0.0)
    for look in range(DEAD_POLLS):
        assert not known.is_dead
        known.observe_processes([ASLEEP, ProcessActivity(ended=True)], look / 4)
    assert known.is_dead
    known.observe_count(99, 1.0)
    assert known.problem(1.0) is not None
    known.mark_healthy(2.0)
    assert known.problem(2.0) is None


def test_a_process_that_triton_cannot_reach_is_ended() -> None:
    known = asked_at(0.0)
    known.undelivered = REFUSED
    known.observe_processes([ProcessActivity(busy=True)], 0.25)
    assert known.is_closed
    assert known.is_hung(0.25, LIMIT)


def test_costly_models_are_asked_less_often() -> None:
    known = asked_at(0.0)
    known.probed_at = None
    assert known.is_due(1.0)
    known.probe_seconds = 0.5
    assert not known.is_due(4.0)
    assert known.is_due(6.0)
