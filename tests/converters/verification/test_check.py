"""The check of a converted model: what it compares, and the faults that it must find."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from converters.errors import CheckFailed
from converters.verification.budget import SECONDS, check_seconds
from converters.verification.check import (
    BATCHES,
    LARGEST_BATCH,
    LEAST_BATCHES,
    LONG_CHECK_BATCHES,
    Run,
    mixed_batches,
    verify,
    verify_tokens,
)
from converters.verification.check_texts import ALWAYS, EDGE_TEXTS, check_texts
from converters.verification.samples import Samples, TokenSample
from triton_models.contract.tokens import token_ids

Ids = NDArray[np.int64]
Lengths = NDArray[np.int32]
Vectors = NDArray[np.float32]
LEAST = 1e-9
"""Seconds of a check that has what every check must have, and nothing more."""


def some_samples(always: int | None = None) -> Samples:
    generator = np.random.default_rng(0)
    ids = [np.full(1 + row % 7, row, dtype=np.int64) for row in range(100)]
    vectors = generator.normal(size=(100, 8)).astype(np.float32)
    return Samples([f"text {row}" for row in range(100)], ids, vectors, None, always=always)


class Table:
    """A `Run` that looks the vectors up by a row's last token, and counts."""

    def __init__(self, samples: Samples) -> None:
        self.vectors = samples.vectors
        self.alone: list[int] = []
        self.batches: list[int] = []

    def __call__(self, ids: Ids, lengths: Lengths) -> Vectors:
        rows = token_ids(ids)[np.cumsum(lengths) - 1]
        if rows.size == 1:
            self.alone.append(int(rows[0]))
        else:
            self.batches.append(rows.size)
        vectors: Vectors = self.vectors[rows]
        return vectors.copy()


def refused(run: Run, samples: Samples, seconds: float) -> str | None:
    """Return why a check refuses, or None if it passes."""
    try:
        verify(run, samples, lambda *_: None, seconds=seconds)
    except CheckFailed as error:
        return str(error)
    return None


def test_the_least_that_every_check_compares() -> None:
    samples = some_samples(always=60)
    table = Table(samples)
    result = verify(table, samples, lambda *_: None, seconds=LEAST)
    assert table.alone == list(range(60))
    assert table.batches == [LARGEST_BATCH] * LEAST_BATCHES
    assert (result.texts, result.batches) == (60, LEAST_BATCHES)


def test_a_check_with_time_compares_everything_and_says_so() -> None:
    samples = some_samples(always=60)
    table = Table(samples)
    result = verify(table, samples, lambda *_: None, seconds=SECONDS)
    assert (len(table.alone), len(table.batches)) == (100, BATCHES)
    assert (result.texts, result.batches) == (100, BATCHES)
    assert verify(table, samples, lambda *_: None).batches == LONG_CHECK_BATCHES


def test_edge_texts_are_in_every_check() -> None:
    always = check_texts()[:ALWAYS]
    assert always[: len(EDGE_TEXTS)] == list(EDGE_TEXTS)
    lengths = sorted(len(text.split()) for text in always[len(EDGE_TEXTS) :])
    assert lengths[0] == 1
    assert lengths[-1] == 1000
    assert len(always) >= LARGEST_BATCH


def test_batches_are_large_and_long_texts_are_in_all() -> None:
    lengths = [5] * 250 + [200] * 30
    batches = list(itertools.islice(mixed_batches(lengths), BATCHES))
    assert {len(rows) for rows in batches[:LEAST_BATCHES]} == {LARGEST_BATCH}
    assert {row for rows in batches[:LEAST_BATCHES] for row in rows} == set(range(280))
    assert all(len({lengths[row] for row in rows}) == 2 for rows in batches)
    assert len({len(rows) for rows in batches}) >= 4


@pytest.mark.parametrize("lengths", [[3], [200], [200, 300], [5] * 3])
def test_batches_of_few_texts(lengths: list[int]) -> None:
    first = next(mixed_batches(lengths))
    assert len(first) == LARGEST_BATCH
    assert set(first) == set(range(len(lengths)))


@pytest.mark.parametrize(("text", "seconds"), [("", SECONDS), ("7.5", 7.5), ("0", float("inf"))])
def test_seconds_of_the_check(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECK_SECONDS", text)
    assert check_seconds() == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_seconds_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECK_SECONDS", text)
    with pytest.raises(ValueError, match=r"seconds|float"):
        check_seconds()


@pytest.mark.parametrize("fault", ["noise", "nan", "leak"])
@pytest.mark.parametrize("bad_batch", [1, LEAST_BATCHES, BATCHES])
def test_one_wrong_row_in_one_batch_is_found(bad_batch: int, fault: str) -> None:
    samples = some_samples()
    table = Table(samples)

    def run(ids: Ids, lengths: Lengths) -> Vectors:
        vectors = table(ids, lengths)
        if lengths.size > 1 and len(table.batches) == bad_batch:
            wrong = {"noise": vectors[-1] * 1.1 + 0.1, "nan": vectors[-1] * np.nan, "leak": vectors[0]}
            vectors[-1] = wrong[fault]
        return vectors

    assert "'text " in str(refused(run, samples, SECONDS))


def test_a_race_is_found_twenty_times_of_twenty() -> None:
    # As measured with `racing`: a row of half of the large batches or more, and of no single text.
    samples = some_samples()
    table = Table(samples)
    for seed in range(20):
        chance = np.random.default_rng(seed)

        def run(ids: Ids, lengths: Lengths, chance: np.random.Generator = chance) -> Vectors:
            vectors = table(ids, lengths)
            if lengths.size >= LARGEST_BATCH and chance.random() < 0.5:
                vectors[chance.integers(lengths.size)] *= chance.uniform(0.8, 0.97, 8)
            return vectors

        assert refused(run, samples, SECONDS), seed


@pytest.mark.parametrize("fault", [None, "order", "scale", "one too few", "leak"])
def test_wrong_vectors_of_tokens_are_found(fault: str | None) -> None:
    table = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    samples = some_samples()
    samples = replace(samples, ids=[np.arange(ids.size) + row for row, ids in enumerate(samples.ids)])
    samples = replace(samples, tokens=[TokenSample(row, table[samples.ids[row]]) for row in (3, 11, 38)])

    def run(ids: Ids, lengths: Lengths) -> Vectors:
        vectors: Vectors = table[token_ids(ids)]
        if fault == "scale":
            vectors *= 1.05
        if fault == "order":
            vectors = vectors[::-1]
        if fault == "one too few":
            vectors = vectors[:-1]
        if fault == "leak" and lengths.size > 1:
            vectors[-1] = vectors[0]
        return vectors

    if fault is None:
        assert verify_tokens(run, samples) > 0.999999
    else:
        with pytest.raises(CheckFailed, match="'text "):
            verify_tokens(run, samples)


def test_a_wrong_scale_is_found() -> None:
    samples = some_samples()
    table = Table(samples)
    table.vectors = 1.05 * table.vectors
    assert "another length" in str(refused(table, samples, LEAST))
