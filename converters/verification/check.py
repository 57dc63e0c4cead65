"""Comparison of a converted model with its reference, and the part of it that later loads repeat.

The check runs with the engine and the threads that will serve, in many large mixed batches. A race in a
kernel or a row that leaks into its neighbour shows in a few batches out of many, and never in small ones.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.errors import CheckFailed, shorten
from triton_models.contract.accuracy import BOUNDS, Bounds, cosines
from triton_models.contract.tokens import ROW_START

NORM_TOLERANCE = 0.01
"""Relative tolerance of a vector's length, because a cosine does not detect a wrong scale."""
BATCHES = 64
"""Minimum number of mixed batches; the last round over all texts is finished."""
LARGEST_BATCH = 48
_LONG = 96
_TOKEN_TEXTS = 16
_PLANTED_BATCHES = 8
KEPT_SAMPLES = 24
KEPT_TOKENS = 512

Run = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float32]]
"""Maps input_ids int64 [total] and lengths int32 [batch] to float32 [batch, D], or [total, H] for tokens."""


@dataclass(frozen=True)
class TokenSample:
    """Reference vectors of one text's tokens.

    Attributes:
        row: Index of the text in `Samples`.
        vectors: float32 [L, H].
    """

    row: int
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """Texts with their ids and reference vectors.

    Attributes:
        texts: Texts including their prompt.
        ids: int64 [L] for each text, L >= 1, flags included.
        vectors: float32 [n, D].
        empty: Vector of a text without tokens, float32 [D]; None if every text has tokens.
        tokens: Token vectors of some texts; empty for CLIP models, which give no token vectors.
        planted_id: A token without a finite vector, see `sentence_graph.plant`; None skips its check.
        not_finite: int64 [L] of each text whose reference vector is not finite; they are not in the others.
    """

    texts: list[str]
    ids: list[NDArray[np.int64]]
    vectors: NDArray[np.float32]
    empty: NDArray[np.float32] | None
    tokens: Sequence[TokenSample] = ()
    planted_id: int | None = None
    not_finite: Sequence[NDArray[np.int64]] = ()

    def batch(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the flat ids, int64 [total], and the lengths, int32 [batch], of the given rows."""
        chosen = [self.ids[row] for row in rows]
        return np.concatenate(chosen), np.array([len(ids) for ids in chosen], dtype=np.int32)

    def marked_batch(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `batch(rows)` with ROW_START on the first token of every row.

        Grouped requests are marked like this, and the flag must not change any vector.
        """
        ids, lengths = self.batch(rows)
        ids[np.cumsum(lengths) - lengths] |= ROW_START
        return ids, lengths

    def planted_batch(self, rows: Sequence[int], place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `marked_batch(rows)` with the row at `place` filled with the planted id."""
        ids, lengths = self.marked_batch(rows)
        start = int(lengths[:place].sum())
        ids[start : start + lengths[place]] = self.planted_id
        return ids, lengths

    def spread(self, count: int, longest: int) -> list[int]:
        """Return at most `count` rows of evenly spread lengths up to `longest` tokens, the longest included.

        If every text is longer than that, the shortest one is returned.
        """
        order = sorted(range(len(self.ids)), key=lambda row: len(self.ids[row]))
        order = [row for row in order if len(self.ids[row]) <= longest] or order[:1]
        places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
        return [order[place] for place in places]


@dataclass(frozen=True)
class CheckResult:
    """Result of a passed check.

    Attributes:
        texts: Number of texts, or of images for an image tower.
        batches: Number of mixed batches.
        min_cosine: Lowest cosine to the reference.
        min_alone: Lowest cosine between the vector of a text alone and its vector in a batch.
        worst_text: The text with `min_cosine`, shortened.
        min_token_cosine: Lowest cosine of a token's vector to the reference; None without token vectors.
    """

    texts: int
    batches: int
    min_cosine: float
    min_alone: float
    worst_text: str
    min_token_cosine: float | None = None


def verify(
    run: Run, samples: Samples, report: Callable[[float, str], None], least: Bounds = BOUNDS["fp32"]
) -> CheckResult:
    """Compare every text, alone and in at least `BATCHES` mixed batches, with the reference.

    Raises:
        CheckFailed: A vector is wrong or depends on its batch; the message names the worst text, except in
            the check with the planted token.
    """
    alone = np.empty_like(samples.vectors)
    for row in range(len(samples.ids)):
        alone[row] = run(*samples.batch([row]))[0]
        report(0.5 * (row + 1) / len(samples.ids), "Comparing every text alone")
    worst = _Worst()
    worst.see(cosines(alone, samples.vectors), range(len(samples.ids)))
    _check_norms(alone, samples.vectors, samples.texts)
    worst_alone = _Worst()
    batches = mixed_batches([len(ids) for ids in samples.ids])
    for number, rows in enumerate(batches, start=1):
        together = run(*samples.marked_batch(rows))
        worst.see(cosines(together, samples.vectors[rows]), rows)
        worst_alone.see(cosines(together, alone[rows]), rows)
        report(0.5 + 0.5 * number / len(batches), "Comparing mixed batches")
    text = shorten(samples.texts[worst.row])
    if worst.cosine < least.reference:
        raise CheckFailed(
            f"the converted model differs from the reference: cosine {worst.cosine:.6f}, "
            f"at least {least.reference} is needed, for the text {text}"
        )
    if worst_alone.cosine < least.alone:
        other = shorten(samples.texts[worst_alone.row])
        raise CheckFailed(
            f"a text's vector depends on its batch: cosine {worst_alone.cosine:.6f}, "
            f"at least {least.alone} is needed, for the text {other}"
        )
    for ids in samples.not_finite:
        if np.isfinite(run(ids, np.array([ids.size], np.int32))).all():
            raise CheckFailed("the converted model gives a finite vector where the reference gives none")
    if samples.planted_id is not None:
        for number, rows in enumerate(batches[:_PLANTED_BATCHES]):
            place = number % len(rows)
            _check_planted(run(*samples.planted_batch(rows, place)), place, alone[rows], least)
    return CheckResult(len(samples.ids), len(batches), worst.cosine, worst_alone.cosine, text)


def verify_tokens(run: Run, samples: Samples, least: Bounds = BOUNDS["fp32"]) -> float:
    """Compare the token vectors of `samples.tokens` with the reference, each text alone and all together.

    Returns:
        The lowest cosine of a token.

    Raises:
        CheckFailed: A token's vector is wrong, or the number of tokens is; the message names the text.
    """
    rows = [sample.row for sample in samples.tokens]
    lengths = [len(samples.ids[row]) for row in rows]
    together = np.split(run(*samples.marked_batch(rows)), np.cumsum(lengths)[:-1])
    lowest = 1.0
    for sample, among_others in zip(samples.tokens, together, strict=True):
        alone = run(*samples.batch([sample.row]))
        text = shorten(samples.texts[sample.row])
        if not alone.shape == among_others.shape == sample.vectors.shape:
            raise CheckFailed(
                f"the converted model gives other tokens than the reference, for the text {text}"
            )
        for vectors in (alone, among_others):
            cosine = float(cosines(vectors, sample.vectors).min())
            if cosine < least.reference:
                raise CheckFailed(
                    f"the vectors of tokens differ from the reference's: cosine {cosine:.6f}, "
                    f"at least {least.reference} is needed, for the text {text}"
                )
            _check_norms(vectors, sample.vectors, [samples.texts[sample.row]] * len(vectors))
            lowest = min(lowest, cosine)
    return lowest


def mixed_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows of each batch, the same at every call.

    Each round has all rows, in a new order and in new batch sizes. Long texts share batches with as many
    short ones: in padded models, each long text would otherwise make a whole batch as long as itself.
    """
    choice = random.Random(11)  # noqa: S311 - the same batches every time, no secret
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    cut = next((place for place, row in enumerate(order) if lengths[row] > _LONG), len(order))
    short, long = order[:cut] or order, order[cut:]
    batches: list[list[int]] = []
    while len(batches) < BATCHES:
        rest = choice.sample(short, len(short))
        mixed = choice.sample(long, len(long))
        for start in range(0, len(long), LARGEST_BATCH // 2):
            some = mixed[start : start + LARGEST_BATCH // 2]
            some += rest[: len(some)]
            batches.append(choice.sample(some, len(some)))
        while rest:
            size = choice.choice((4, 8, 16, 32, LARGEST_BATCH))
            batches.append(rest[:size])
            rest = rest[size:]
    return batches


def save(samples: Samples, path: Path) -> None:
    """Write `check.npz`, the part of the check that is repeated after each load."""
    rows = samples.spread(KEPT_SAMPLES, KEPT_TOKENS)
    input_ids, lengths = samples.batch(rows)
    arrays: dict[str, Any] = {"input_ids": input_ids, "lengths": lengths, "embeddings": samples.vectors[rows]}
    if samples.empty is not None:
        arrays["empty_embedding"] = samples.empty
    np.savez(path, **arrays)


def _check_planted(
    together: NDArray[np.float32], place: int, alone: NDArray[np.float32], least: Bounds
) -> None:
    """Require no finite vector for the text at `place`, and for all others the vectors they have alone."""
    if np.isfinite(together[place]).all():
        raise CheckFailed("the converted model gives a finite vector for what has none")
    # A row that is not finite has a cosine of -1.
    others = np.delete(cosines(together, alone), place)
    if others.size and others.min() < least.alone:
        raise CheckFailed("a text without a finite vector changes the vectors of others in its batch")


def _check_norms(vectors: NDArray[np.float32], reference: NDArray[np.float32], texts: Sequence[str]) -> None:
    norms, expected = np.linalg.norm(vectors, axis=1), np.linalg.norm(reference, axis=1)
    off = np.abs(norms - expected) > NORM_TOLERANCE * expected
    if off.any():
        text = shorten(texts[int(off.argmax())])
        raise CheckFailed(
            f"the converted model's vectors have another length than the reference's, for the text {text}"
        )


class _Worst:
    """The lowest cosine seen so far, and its row."""

    def __init__(self) -> None:
        self.cosine, self.row = 1.0, 0

    def see(self, values: NDArray[np.float64], rows: Sequence[int]) -> None:
        place = int(values.argmin())
        if values[place] < self.cosine:
            self.cosine, self.row = float(values[place]), rows[place]
