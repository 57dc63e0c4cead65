"""The sizes of CUDA graphs, and batches filled up to them."""

import numpy as np
import pytest

from triton_models.backends.onnxruntime.buckets import LARGEST, SMALLEST, Bucket, bucket_for, buckets, filled
from triton_models.backends.onnxruntime.torch_session import runs


@pytest.mark.parametrize("longest", [None, 77, 512])
def test_every_batch_gets_the_smallest_size_that_holds_it(longest: int | None) -> None:
    offered = buckets(longest)
    assert (offered[0].tokens, offered[-1].tokens) == (SMALLEST, LARGEST)
    choice = np.random.default_rng(0)
    for _ in range(500):
        most = min(longest or 600, 600)
        lengths = choice.integers(1, most + 1, choice.integers(1, 40)).astype(np.int32)
        bucket = bucket_for(offered, lengths)
        if bucket is None:
            assert lengths.sum() >= LARGEST or lengths.sum() < 8 * lengths.size
            continue
        assert lengths.sum() < bucket.tokens < max(SMALLEST + 1, 1.5 * lengths.sum() + 2)
        ids, rows = filled(np.arange(lengths.sum()), lengths, bucket)
        assert (ids.shape, rows.shape) == ((bucket.tokens,), (bucket.rows,))
        assert rows.sum() == bucket.tokens
        assert rows.max() <= bucket.longest
        # The rows keep their places, and the last row has a token: empty ones point at what follows.
        np.testing.assert_array_equal(rows[: lengths.size], lengths)
        np.testing.assert_array_equal(ids[: lengths.sum()], np.arange(lengths.sum()))
        assert rows[-1] > 0


def test_what_no_size_holds_is_left_to_be_computed_without_a_graph() -> None:
    one = [Bucket(64, 8, 40)]
    for lengths, fits in (
        ([40, 10], True),
        ([41], False),
        ([40, 24], False),
        ([1] * 6, True),
        ([1] * 7, False),
    ):
        assert (bucket_for(one, np.array(lengths, np.int32)) is not None) is fits, lengths
    assert bucket_for([], np.array([3], np.int32)) is None


def test_runs_hold_every_row_once_and_no_more_tokens_than_allowed() -> None:
    lengths = np.array([5, 5, 30, 2, 8, 8, 8], np.int32)
    assert list(runs(lengths, 16)) == [(0, 2), (2, 3), (3, 5), (5, 7)]
    assert list(runs(lengths[:1], 1)) == [(0, 1)]
