import numpy as np

from triton_models.contract.tokens import (
    NOT_POOLED,
    ROW_START,
    TOKEN_ID_BITS,
    WANTS_TOKENS,
    beside_random,
    mark_not_pooled,
    mark_past_cache,
    mark_rows,
    mark_wants_tokens,
    token_ids,
)

IDS = np.array([12, 13, 14, 15, 16, 17], np.int64)


def test_equal_bytes_mean_equal_shape() -> None:
    shapes = [(1, 6), (2, 3), (3, 2), (6, 1)]
    assert len({mark_rows(IDS.reshape(shape)).tobytes() for shape in shapes}) == len(shapes)


def test_marking_again_changes_nothing() -> None:
    once = mark_rows(IDS.reshape(3, 2))
    assert np.array_equal(mark_rows(once), once)


def test_marking_leaves_the_callers_rows_alone() -> None:
    rows = IDS.reshape(3, 2).copy()
    mark_rows(rows)
    mark_past_cache(rows)
    mark_wants_tokens(rows)
    mark_not_pooled(rows[0], 1)
    assert np.array_equal(rows, IDS.reshape(3, 2))


def test_passing_by_the_cache_makes_bytes_that_no_ordinary_request_has() -> None:
    ordinary = {mark_rows(IDS.reshape(shape)).tobytes() for shape in [(1, 6), (2, 3), (3, 2), (6, 1)]}
    rows = mark_rows(IDS.reshape(2, 3))
    for_tokens = mark_wants_tokens(rows)
    others = {mark_past_cache(rows).tobytes(), for_tokens.tobytes(), mark_past_cache(for_tokens).tobytes()}
    assert len(others - ordinary) == 3


def test_random_rows_make_new_bytes_each_time_even_beside_one_token() -> None:
    for rows in (np.array([[0]]), np.array([[5]]), IDS.reshape(1, 6), IDS.reshape(6, 1)):
        made = [beside_random(rows) for _ in range(200)]
        assert len({request.tobytes() for request in made}) == len(made)
        assert all(np.array_equal(request[: len(rows)], rows) for request in made)


def test_ids_come_back_from_under_all_flags() -> None:
    flagged = mark_wants_tokens(mark_past_cache(mark_not_pooled(IDS, 4).reshape(2, 3)))
    assert np.array_equal(token_ids(flagged).reshape(-1), IDS)
    assert (flagged.reshape(-1) & NOT_POOLED != 0).tolist() == [True] * 4 + [False] * 2


def test_everything_fits_into_31_bits() -> None:
    assert ((1 << TOKEN_ID_BITS) - 1) | WANTS_TOKENS | NOT_POOLED | ROW_START < 2**31
