"""The comparison of a converted model with its reference, and what is kept of it for later loads.

Run with the engine and the threads that will serve, in many large mixed batches: a race in a kernel
or a row that leaks into its neighbour shows in a few batches out of many, and never in small ones.
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
"""Relative. A cosine does not see a wrong scale."""
BATCHES = 64
"""At least; the last round is finished."""
LARGEST_BATCH = 48
_LONG = 96
_TOKEN_TEXTS = 16
_PLANTED_BATCHES = 8
KEPT_SAMPLES = 24
KEPT_TOKENS = 512

Run = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float32]]
"""input_ids int64 [total], lengths int32 [batch] to float32 [batch, D], or [total, H] of the tokens."""


@dataclass(frozen=True)
class TokenSample:
    """A text's number in `Samples`, and the reference's vectors of its tokens, float32 [L, H]."""

    row: int
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """Texts with their ids and reference vectors.

    texts: with their prompt. ids: int64 [L], L >= 1, flags included. vectors: float32 [n, D].
    empty: float32 [D], the vector of a text without tokens; None where every text has some.
    tokens: of some of the texts; none of CLIP models, which give no vectors of tokens.
    planted_id: a token without a finite vector, see `graph.plant`; None leaves that part of the check out.
    """

    texts: list[str]
    ids: list[NDArray[np.int64]]
    vectors: NDArray[np.float32]
    empty: NDArray[np.float32] | None
    tokens: Sequence[TokenSample] = ()
    planted_id: int | None = None

    def batch(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The flat ids and the lengths of some rows."""
        chosen = [self.ids[row] for row in rows]
        return np.concatenate(chosen), np.array([len(ids) for ids in chosen], dtype=np.int32)

    def marked_batch(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The same with ROW_START on every row, as grouped requests have it; the vectors must not notice."""
        ids, lengths = self.batch(rows)
        ids[np.cumsum(lengths) - lengths] |= ROW_START
        return ids, lengths

    def planted_batch(self, rows: Sequence[int], place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The same, with the planted id alone in the row at `place`."""
        ids, lengths = self.marked_batch(rows)
        start = int(lengths[:place].sum())
        ids[start : start + lengths[place]] = self.planted_id
        return ids, lengths

    def spread(self, count: int, longest: int) -> list[int]:
        """At most `count` rows of evenly spread lengths up to `longest` tokens, the longest included."""
        order = sorted(range(len(self.ids)), key=lambda row: len(self.ids[row]))
        order = [row for row in order if len(self.ids[row]) <= longest] or order[:1]
        places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
        return [order[place] for place in places]


@dataclass(frozen=True)
class CheckResult:
    """min_cosine: to the reference; min_alone: alone against in a batch; worst_text: of min_cosine.

    min_token_cosine: of a token's vector to the reference's; None where the model gives none.
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
    """Compare every text, alone and in `BATCHES` mixed batches, with the reference.

    Raises:
        CheckFailed: naming the worst text.
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
    if samples.planted_id is not None:
        for number, rows in enumerate(batches[:_PLANTED_BATCHES]):
            place = number % len(rows)
            _check_planted(run(*samples.planted_batch(rows, place)), place, alone[rows], least)
    return CheckResult(len(samples.ids), len(batches), worst.cosine, worst_alone.cosine, text)


def verify_tokens(run: Run, samples: Samples, least: Bounds = BOUNDS["fp32"]) -> float:
    """Compare the vectors of all tokens of `samples.tokens` with the reference, each text alone and together.

    Returns the least cosine.

    Raises:
        CheckFailed: naming the worst text.
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
    """The rows of each batch, the same at every call.

    All rows again and again in ever new orders and batch sizes. Long texts come together, as many
    short ones with them: in padded models each would otherwise make a whole batch as long as itself.
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
    """A text at `place` has no finite vector; all others must have those that they have alone."""
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
    """The least cosine seen, and of which row."""

    def __init__(self) -> None:
        self.cosine, self.row = 1.0, 0

    def see(self, values: NDArray[np.float64], rows: Sequence[int]) -> None:
        place = int(values.argmin())
        if values[place] < self.cosine:
            self.cosine, self.row = float(values[place]), rows[place]
