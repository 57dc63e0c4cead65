"""The check that ends every load: what Triton answers must be what was recorded at conversion.

It catches what no shape and no status shows: a wrong library in the backend's process, a stale
cache entry, a mixed-up version, a racy kernel.
"""

import asyncio

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidModel
from triton_models.accuracy import BOUNDS, cosines
from triton_models.client import TritonClient
from triton_models.manifest import Manifest
from triton_models.repository import Check
from triton_models.tokens import ROW_START, mark_past_cache


async def verify(client: TritonClient, served: str, manifest: Manifest, check: Check, timeout: float) -> None:
    """Send the recorded rows as callers do, then alone and all at once past the cache; compare.

    Raises:
        InvalidModel: a vector differs.
        TritonError: Triton does not answer.
    """
    ends = np.cumsum(check.lengths)
    rows = [check.input_ids[end - length : end] for end, length in zip(ends, check.lengths, strict=True)]

    async def infer(row: NDArray[np.int64]) -> NDArray[np.float32]:
        vectors = await client.infer(served, manifest.version, row, timeout=timeout)
        return np.asarray(vectors[0])

    cached = np.array(await asyncio.gather(*(infer(row.reshape(1, -1)) for row in rows)))
    alone = np.array([await infer(past_cache(row)) for row in rows])
    mixed = np.array(await asyncio.gather(*(infer(past_cache(row)) for row in rows)))
    bounds = BOUNDS[manifest.precision]
    for vectors, reference, least in (
        (cached, check.embeddings, bounds.reference),
        (alone, check.embeddings, bounds.reference),
        (mixed, check.embeddings, bounds.reference),
        (mixed, alone, bounds.alone),
    ):
        lowest = float(cosines(vectors, reference).min())
        if not lowest >= least:
            raise InvalidModel(
                f"{manifest.model_name} as served by Triton differs from the reference: cosine {lowest:.6f}, "
                f"at least {least} is needed; it was not loaded"
            )


def past_cache(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row as int64 [1, L] in bytes that no request had: ROW_START, which the graph ignores, at random."""
    marks = np.random.default_rng().integers(0, 2, (1, row.size)) * ROW_START
    return mark_past_cache(row.reshape(1, -1) | marks)
