"""Cuts a ragged batch into runs: texts of like length together, no more padding than a run is worth.

Attention pads every text of a run to the longest; a run costs something whatever its size. Costs are
counted in tokens: what the products with weights take for one token, measured on MiniLM, 2 cores.
"""

import numpy as np
from numpy.typing import NDArray

PADDED_TOKENS = 16384
"""Rows times the longest row of one run: bounds the memory that attention takes."""

RUN_COST = 64.0
"""Of one run, in tokens."""

ATTENTION_COST = 1 / 800
"""Of one cell of a row's attention (its padded length squared), in tokens."""

_LENGTH_STEP = 16
"""Attention pads to a multiple of this; see `converters/graph/packed_attention.py`."""

Rows = NDArray[np.intp]


def sub_batches(
    lengths: NDArray[np.int32], streams: int = 1, padded_tokens: int = PADDED_TOKENS
) -> list[Rows]:
    """Row numbers of each run, every row once, the costliest run first.

    lengths: int32 [batch], at least 1. streams: runs at a time; each gets about its share of the cost.
    Rows times the longest of a run stays within `padded_tokens`; a row that is longer by itself runs alone.
    """
    order = np.argsort(lengths, kind="stable")
    padded = (lengths[order] + (_LENGTH_STEP - 1)) // _LENGTH_STEP * _LENGTH_STEP
    batch = _Batch(np.concatenate(([0], np.cumsum(lengths[order]))), padded, max(padded_tokens, 1))
    runs = _merged(batch, _blocks(batch))
    if streams > 1:
        runs = _shared(batch, runs, streams)
    runs.sort(key=lambda run: -batch.cost(*run))
    return [order[start:end] for start, end in runs]


class _Batch:
    """Rows sorted by length. tokens: their running sum, from 0. padded: the length each is padded to."""

    def __init__(self, tokens: NDArray[np.int64], padded: NDArray[np.int32], budget: int) -> None:
        self.tokens, self.padded = tokens.tolist(), padded.tolist()
        self.size = len(self.padded)
        self.budget = budget

    def cost(self, start: int, end: int) -> float:
        """Of a run of the rows from `start` to before `end`."""
        longest = self.padded[end - 1]
        attention = (end - start) * longest * longest * ATTENTION_COST
        return float(RUN_COST + self.tokens[end] - self.tokens[start] + attention)

    def fits(self, start: int, end: int) -> bool:
        return end - start == 1 or (end - start) * self.padded[end - 1] <= self.budget


def _blocks(batch: _Batch) -> list[int]:
    """Where blocks end: rows of one padded length that fit into one run."""
    ends, start = [], 0
    for row in range(1, batch.size + 1):
        last = row == batch.size
        if last or batch.padded[row] != batch.padded[row - 1] or not batch.fits(start, row + 1):
            ends.append(row)
            start = row
    return ends


def _merged(batch: _Batch, ends: list[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring blocks, (start, end) each, of the least cost altogether."""
    best, cuts = {0: 0.0}, {}
    places = [0, *ends]
    for number, end in enumerate(ends, start=1):
        for start in reversed(places[:number]):
            if not batch.fits(start, end) and start != places[number - 1]:
                break
            cost = best[start] + batch.cost(start, end)
            if end not in best or cost < best[end]:
                best[end], cuts[end] = cost, start
    runs, end = [], batch.size
    while end:
        runs.append((cuts[end], end))
        end = cuts[end]
    return runs


def _shared(batch: _Batch, runs: list[tuple[int, int]], streams: int) -> list[tuple[int, int]]:
    """The runs, those above a stream's share cut, so that no stream is left without work."""
    share = sum(batch.cost(*run) - RUN_COST for run in runs) / streams + RUN_COST
    # A rest that is not worth a run of its own stays where it is, unless a stream would be idle.
    least_rest = 1.5 * RUN_COST if len(runs) >= streams else RUN_COST
    done = []
    waiting = list(runs)
    while waiting:
        start, end = waiting.pop()
        cut = start + 1
        while cut < end and batch.cost(start, cut + 1) <= share:
            cut += 1
        if cut < end and batch.cost(cut, end) > least_rest:
            done.append((start, cut))
            waiting.append((cut, end))
            least_rest = 1.5 * RUN_COST if len(done) + len(waiting) >= streams else RUN_COST
        else:
            done.append((start, end))
    return done
