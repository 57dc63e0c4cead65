"""How a batch is cut into runs."""

import numpy as np
import pytest

from triton_models.backends.onnxruntime.sub_batches import sub_batches


@pytest.mark.parametrize("streams", [1, 2, 7])
def test_every_row_is_in_one_run_within_the_budget(streams: int) -> None:
    lengths = np.random.default_rng(3).integers(1, 300, 200).astype(np.int32)
    lengths[7] = 2000
    groups = sub_batches(lengths, streams, padded_tokens=1000)
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    for group in groups:
        assert group.size == 1 or group.size * lengths[group].max() <= 1000
    assert [7] in [group.tolist() for group in groups]


def test_short_texts_are_not_padded_to_a_long_one() -> None:
    lengths = np.array([400, *[8] * 40], np.int32)
    assert [group.tolist() for group in sub_batches(lengths)] == [[0], list(range(1, 41))]


def test_texts_of_like_length_run_together() -> None:
    assert len(sub_batches(np.array([9, 12, 10, 16, 20] * 4, np.int32))) == 1


@pytest.mark.parametrize("streams", [2, 4])
def test_every_stream_has_about_the_same_work(streams: int) -> None:
    lengths = np.full(64, 20, np.int32)
    groups = sub_batches(lengths, streams)
    assert len(groups) == streams
    assert max(group.size for group in groups) <= 64 / streams + 3


def test_two_texts_are_two_runs_where_there_are_streams_for_them() -> None:
    assert len(sub_batches(np.array([6, 9], np.int32), streams=2)) == 2
