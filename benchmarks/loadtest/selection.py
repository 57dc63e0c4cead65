"""The choice of inputs: those of a file or a directory or built-in ones, with or without repeats."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import TypeVar

from benchmarks.loadtest.settings import BenchmarkError, Settings

Input = TypeVar("Input")


def shuffled(found: list[Input], settings: Settings, option: str) -> list[Input]:
    """Return inputs in random order.

    Raises:
        BenchmarkError: There are too few for `--distinct` or `--processes`; the message begins with `option`.
    """
    needed = max(settings.distinct or 1, settings.processes)
    if len(found) < needed:
        raise BenchmarkError(f"{option}: has {len(found)} inputs, {needed} are needed")
    random.Random(settings.seed).shuffle(found)
    return found


def chosen(
    given: Sequence[Input], endless: Iterable[Input], settings: Settings, process: int, draw: random.Random
) -> Iterator[Input]:
    """Yield inputs forever; without `--distinct`, no other process gets any of them.

    Args:
        given: The inputs of a file or a directory, or of `--distinct`; may be empty.
        endless: New inputs of this process.
        settings: The options.
        process: The number of the process.
        draw: Draws from the inputs of `--distinct`.
    """
    if settings.distinct:
        pool = given[: settings.distinct]
        while True:
            yield draw.choice(pool)
    yield from cycle(given[process :: settings.processes])
    yield from endless
