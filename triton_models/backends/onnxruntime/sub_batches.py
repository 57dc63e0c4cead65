"""Split a ragged batch into runs of texts of similar length, to balance padding against the cost of a run.

Attention pads every text of a run to the longest one, and every run has a fixed cost. The unit of cost is one
token: the time that the products with weights take for it, measured on MiniLM with 2 cores.
"""

import numpy as np
from numpy.typing import NDArray

PADDED_TOKENS = 16384
"""The most padded tokens of one run (rows times the longest row), to bound the memory of attention."""

RUN_COST = 64.0
"""The fixed cost of one run, in tokens."""

ATTENTION_COST = 1 / 800
"""The cost of one cell of a row's attention, in tokens; a row has its padded length squared of them."""

_LENGTH_STEP = 16
"""Attention pads to a multiple of this; see `converters/graph/packed_attention.py`."""

Rows = NDArray[np.intp]


def sub_batches(
    lengths: NDArray[np.int32], streams: int = 1, padded_tokens: int = PADDED_TOKENS
) -> list[Rows]:
    """Return the row numbers of each run, every row once, the costliest run first.

    Args:
        lengths: int32 [batch], each at least 1.
        streams: Concurrent runs; each stream gets about its share of the cost.
        padded_tokens: Limit of a run's rows times its longest row. A single row above it runs alone.
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
    """Rows sorted by length.

    Args:
        tokens: Running sum of the lengths, from 0.
        padded: Length to which each row is padded.
        budget: Most padded tokens of one run.
    """

    def __init__(self, tokens: NDArray[np.int64], padded: NDArray[np.int32], budget: int) -> None:
        self.tokens, self.padded = tokens.tolist(), padded.tolist()
        self.size = len(self.padded)
        self.budget = budget

    def cost(self, start: int, end: int) -> float:
        """Return the cost of a run of the rows from `start` to before `end`."""
        longest = self.padded[end - 1]
        attention = (end - start) * longest * longest * ATTENTION_COST
        return float(RUN_COST + self.tokens[end] - self.tokens[start] + attention)

    def fits(self, start: int, end: int) -> bool:
        return end - start == 1 or (end - start) * self.padded[end - 1] <= self.budget


def _blocks(batch: _Batch) -> list[int]:
    """Return the ends of blocks: neighbouring rows of one padded length that fit into one run."""
    ends, start = [], 0
    for row in range(1, batch.size + 1):
        last = row == batch.size
        if last or batch.padded[row] != batch.padded[row - 1] or not batch.fits(start, row + 1):
            ends.append(row)
            start = row
    return ends


def _merged(batch: _Batch, ends: list[int]) -> list[tuple[int, int]]:
    """Join neighbouring blocks into runs, (start, end) each, with the least total cost."""
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
    """Cut the runs that cost more than a stream's share, so that no stream is left without work."""
    share = sum(batch.cost(*run) - RUN_COST for run in runs) / streams + RUN_COST
    # A remainder that is not worth a run of its own stays where it is, unless a stream would be idle.
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
