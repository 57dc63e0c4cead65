"""Comparison of a converted model with its reference.

The check runs with the engine and the threads that will serve, in many large mixed batches. A race in a
kernel or a row that leaks into its neighbour shows in a few batches out of many, and never in small ones.
It compares what every check must have, and more while its time lasts.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.errors import CheckFailed, shorten
from converters.verification.budget import Budget
from converters.verification.samples import Samples
from triton_models.contract.accuracy import BOUNDS, Bounds, cosines

NORM_TOLERANCE = 0.01
"""Relative tolerance of a vector's length, because a cosine does not detect a wrong scale."""
LEAST_BATCHES = 8
"""Mixed batches of every check, each of `LARGEST_BATCH` texts."""
BATCHES = 24
"""The most mixed batches of a check with a limit of time."""
LONG_CHECK_BATCHES = 64
LARGEST_BATCH = 48
_LONG = 96

_LEAST_PLANTED, _PLANTED_BATCHES = 2, 8

Run = Callable[[NDArray[np.int64], NDArray[np.int32]], NDArray[np.float32]]
"""Maps input_ids int64 [total] and lengths int32 [batch] to float32 [batch, D], or [total, H] for tokens."""


@dataclass(frozen=True)
class CheckResult:
    """Result of a passed check.

    Attributes:
        texts: Number of texts that were compared, or of images for an image tower.
        batches: Number of mixed batches that were compared.
        min_cosine: Lowest cosine to the reference; for logits minus the largest difference, see `Bounds`.
        min_alone: The same between the vector of a text alone and its vector in a batch.
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
    run: Run,
    samples: Samples,
    report: Callable[[float, str], None],
    least: Bounds = BOUNDS["fp32"],
    seconds: float = math.inf,
) -> CheckResult:
    """Compare texts, alone and in mixed batches, with the reference.

    Without a limit all texts are compared, in
    `LONG_CHECK_BATCHES` batches.

    Raises:
        CheckFailed: A vector is wrong or depends on its batch; the message names the worst text, except in
            the check with the planted token.
    """
    alone = _alone(run, samples, Budget(seconds), report)
    samples = samples.first(len(alone))
    worst = _Worst()
    worst.see(least.agreement(alone, samples.vectors), range(len(alone)))
    if not least.of_logits:
        _check_norms(alone, samples.vectors, samples.texts)
    worst_alone = _Worst()
    budget = Budget(seconds)
    most = LONG_CHECK_BATCHES if math.isinf(seconds) else BATCHES
    batches = itertools.islice(mixed_batches([len(ids) for ids in samples.ids]), most)
    number = 0
    for number, rows in enumerate(batches, start=1):
        together = run(*samples.marked_batch(rows))
        worst.see(least.agreement(together, samples.vectors[rows]), rows)
        worst_alone.see(least.agreement(together, alone[rows]), rows)
        report(0.5 + 0.5 * number / most, "Comparing mixed batches")
        if number >= LEAST_BATCHES and budget.is_over:
            break
    _require(worst, worst_alone, samples, least)
    _check_not_finite(run, samples, alone, least, budget)
    text = shorten(samples.texts[worst.row])
    return CheckResult(len(alone), number, worst.cosine, worst_alone.cosine, text)


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


def mixed_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the rows of one batch after another without end, the same at every call.

    The first `LEAST_BATCHES` are large, and then every other. Long texts are spread over all batches: two
    threads are most often at work on one text, and race for it, if it is long.
    """
    choice = random.Random(11)  # noqa: S311 - the same batches every time, no secret
    long = _Deck([row for row, length in enumerate(lengths) if length > _LONG], choice)
    short = _Deck([row for row, length in enumerate(lengths) if length <= _LONG] or long.rows, choice)
    share = min(math.ceil(len(long.rows) / LEAST_BATCHES), LARGEST_BATCH // 2)
    for made in itertools.count():
        large = made < LEAST_BATCHES or made % 2
        size = LARGEST_BATCH if large else choice.choice((4, 8, 16, 32))
        rows = long.draw(min(share, size // 2))
        rows += short.draw(size - len(rows))
        yield choice.sample(rows, len(rows))


class _Deck:
    """Rows in random order; each is drawn once before any is drawn again."""

    def __init__(self, rows: Sequence[int], choice: random.Random) -> None:
        self.rows, self._choice = rows, choice
        self._left: list[int] = []

    def draw(self, count: int) -> list[int]:
        """Return this many rows; none if there are no rows."""
        drawn: list[int] = []
        while self.rows and len(drawn) < count:
            self._left = self._left or self._choice.sample(self.rows, len(self.rows))
            drawn.append(self._left.pop())
        return drawn


def _alone(
    run: Run, samples: Samples, budget: Budget, report: Callable[[float, str], None]
) -> NDArray[np.float32]:
    """Return the vectors of the first texts, each alone: of those that every check has, and more in time."""
    least = len(samples.ids) if samples.always is None else samples.always
    vectors = []
    for row in range(len(samples.ids)):
        if row >= least and budget.is_over:
            break
        vectors.append(run(*samples.batch([row]))[0])
        report(0.5 * (row + 1) / len(samples.ids), "Comparing every text alone")
    return np.stack(vectors)


def _require(worst: "_Worst", worst_alone: "_Worst", samples: Samples, least: Bounds) -> None:
    if worst.cosine < least.reference:
        raise CheckFailed(
            "the converted model differs from the reference: "
            f"{least.describe(worst.cosine, least.reference)}, "
            f"for the text {shorten(samples.texts[worst.row])}"
        )
    if worst_alone.cosine < least.alone:
        raise CheckFailed(
            f"a text's vector depends on its batch: {least.describe(worst_alone.cosine, least.alone)}, "
            f"for the text {shorten(samples.texts[worst_alone.row])}"
        )


def _check_not_finite(
    run: Run, samples: Samples, alone: NDArray[np.float32], least: Bounds, budget: Budget
) -> None:
    """Require that what has no finite vector gets none, and changes no vector beside it."""
    for ids in samples.not_finite:
        if np.isfinite(run(ids, np.array([ids.size], np.int32))).all():
            raise CheckFailed("the converted model gives a finite vector where the reference gives none")
    if samples.planted_id is None:
        return
    batches = mixed_batches([1] * len(samples.ids))
    for number, rows in enumerate(itertools.islice(batches, _PLANTED_BATCHES)):
        if number >= _LEAST_PLANTED and budget.is_over:
            return
        place = number % len(rows)
        _check_planted(run(*samples.planted_batch(rows, place)), place, alone[rows], least)


def _check_planted(
    together: NDArray[np.float32], place: int, alone: NDArray[np.float32], least: Bounds
) -> None:
    """Require no finite vector for the text at `place`, and for all others the vectors they have alone."""
    if np.isfinite(together[place]).all():
        raise CheckFailed("the converted model gives a finite vector for what has none")
    # A row that is not finite agrees with none.
    others = np.delete(least.agreement(together, alone), place)
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
    """The lowest agreement seen so far, and its row."""

    def __init__(self) -> None:
        self.cosine, self.row = 1.0, 0

    def see(self, values: NDArray[np.float64], rows: Sequence[int]) -> None:
        place = int(values.argmin())
        if values[place] < self.cosine:
            self.cosine, self.row = float(values[place]), rows[place]
