"""Ends every load with a check: Triton's vectors must be those that were recorded at conversion.

The check finds faults that no shape or status shows: a wrong library in the backend's process, a stale
cache entry, a mixed-up version, a kernel with a race condition.
"""

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidModel
from triton_models.client.client import TritonClient
from triton_models.client.errors import NotFinite
from triton_models.client.requests import beside_noise
from triton_models.contract.checks import Check, ImageCheck
from triton_models.contract.config import output_of
from triton_models.contract.manifest import Manifest
from triton_models.contract.tokens import past_cache
from triton_models.repository.repository import Repository

PLANTED_EACH = 4
"""Recorded rows for each planted row, whose vector is not finite."""


async def verify_part(
    client: TritonClient,
    repository: Repository,
    triton_name: str,
    manifest: Manifest,
    timeout: float,
    on_answer: Callable[[], None],
) -> None:
    """Compare Triton's vectors of a text model, or of either CLIP tower, with the recorded ones.

    Args:
        client: The client of Triton.
        repository: Has the record.
        triton_name: The part's name in Triton.
        manifest: The part's.
        timeout: Seconds for each answer.
        on_answer: Called before the first request and after each answer.

    Raises:
        InvalidModel: A vector differs.
        TritonError: Triton does not answer.
        RepositoryError: The record cannot be read.
    """
    if manifest.tower == "image":
        images = await asyncio.to_thread(repository.load_image_check, triton_name, manifest.version)
        await verify_images(client, triton_name, manifest, images, timeout, on_answer)
    else:
        texts = await asyncio.to_thread(repository.load_check, triton_name, manifest.version)
        await verify(client, triton_name, manifest, texts, timeout, on_answer)


async def verify(
    client: TritonClient,
    triton_name: str,
    manifest: Manifest,
    check: Check,
    timeout: float,
    on_answer: Callable[[], None],
) -> None:
    """Compare the vectors of recorded rows, sent in three ways, with the recorded ones.

    The rows are sent as callers send them, then one by one past the cache, then all together past the cache.
    Among the last are planted rows that have no finite vector, which must not change the other vectors.

    Raises:
        InvalidModel: A vector differs, or the vector of a planted row is finite.
        TritonError: Triton does not answer.
    """
    ends = np.cumsum(check.lengths)
    rows = [check.input_ids[end - length : end] for end, length in zip(ends, check.lengths, strict=True)]

    output = output_of(manifest)

    async def infer(row: NDArray[np.int64]) -> NDArray[np.float32]:
        try:
            vectors = await client.infer(triton_name, manifest.version, row, timeout=timeout, output=output)
        except NotFinite:
            vectors = np.full((1, manifest.dimensions), np.nan, np.float32)
        on_answer()
        return np.asarray(vectors[0])

    on_answer()
    cached = await asyncio.gather(*(infer(row.reshape(1, -1)) for row in rows))
    alone = [await infer(past_cache(row)) for row in rows]
    sent = _with_planted(rows, manifest.planted_id)
    answers = np.array(await asyncio.gather(*(infer(past_cache(row)) for row in sent)))
    planted = np.array([row[0] == manifest.planted_id for row in sent])
    if np.isfinite(answers[planted]).all(axis=1).any():
        raise InvalidModel(
            f"{manifest.model_name} as served by Triton gives a finite vector for what has none; "
            "it was not loaded"
        )
    compare(manifest, check.embeddings, np.array(cached), np.array(alone), answers[~planted])


def _with_planted(rows: list[NDArray[np.int64]], planted_id: int | None) -> list[NDArray[np.int64]]:
    """Return the rows with a planted one after every PLANTED_EACH: of that row's length, all `planted_id`."""
    sent = []
    for number, row in enumerate(rows, start=1):
        sent.append(row)
        if planted_id is not None and number % PLANTED_EACH == 0:
            sent.append(np.full_like(row, planted_id))
    return sent


async def verify_images(
    client: TritonClient,
    triton_name: str,
    manifest: Manifest,
    check: ImageCheck,
    timeout: float,
    on_answer: Callable[[], None],
) -> None:
    """Compare the vectors of recorded images, sent in the ways of `verify`, with the recorded ones.

    Raises:
        InvalidModel, TritonError: As `verify`.
    """

    async def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = await client.infer_images(triton_name, manifest.version, images, timeout=timeout)
        on_answer()
        return np.asarray(vectors[0])

    on_answer()
    each = [check.images[index : index + 1] for index in range(len(check.images))]
    cached = await asyncio.gather(*(infer(image) for image in each))
    alone = [await infer(beside_noise(image)) for image in each]
    mixed = await asyncio.gather(*(infer(beside_noise(image)) for image in each))
    compare(manifest, check.embeddings, np.array(cached), np.array(alone), np.array(mixed))


def compare(
    manifest: Manifest,
    reference: NDArray[np.float32],
    cached: NDArray[np.float32],
    alone: NDArray[np.float32],
    mixed: NDArray[np.float32],
) -> None:
    """Compare the three answers with the reference, and the last two with each other.

    Args:
        manifest: Gives the precision, which sets the bounds.
        reference: Recorded vectors, float32 [n, D].
        cached: Vectors of rows sent as callers send them, float32 [n, D].
        alone: Vectors of rows sent one by one, float32 [n, D].
        mixed: Vectors of rows sent all together, float32 [n, D].

    Raises:
        InvalidModel: A vector differs.
    """
    bounds = manifest.bounds
    for vectors, expected, least in (
        (cached, reference, bounds.reference),
        (alone, reference, bounds.reference),
        (mixed, reference, bounds.reference),
        (mixed, alone, bounds.alone),
    ):
        lowest = float(bounds.agreement(vectors, expected).min())
        if not lowest >= least:
            raise InvalidModel(
                f"{manifest.model_name} as served by Triton differs from the reference: "
                f"{bounds.describe(lowest, least)}; it was not loaded"
            )
