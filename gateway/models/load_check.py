"""The check that ends every load: what Triton answers must be what was recorded at conversion.

It catches what no shape and no status shows: a wrong library in the backend's process, a stale
cache entry, a mixed-up version, a racy kernel.
"""

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidModel
from triton_models.client.client import TritonClient
from triton_models.client.errors import NotFinite
from triton_models.client.requests import beside_noise
from triton_models.contract.accuracy import BOUNDS, cosines
from triton_models.contract.checks import Check, ImageCheck
from triton_models.contract.manifest import Manifest
from triton_models.contract.tokens import past_cache
from triton_models.repository.repository import Repository

PLANTED_EACH = 4
"""Rows of a check to each one that has no finite vector."""


async def verify_part(
    client: TritonClient,
    repository: Repository,
    served: str,
    manifest: Manifest,
    timeout: float,
    on_answer: Callable[[], None],
) -> None:
    """Compare what Triton answers with what was recorded: of a text model, or of either tower.

    on_answer: called before the first question and after each answer.

    Raises:
        InvalidModel: a vector differs.
        TritonError: Triton does not answer.
        RepositoryError: what was recorded cannot be read.
    """
    if manifest.tower == "image":
        images = await asyncio.to_thread(repository.load_image_check, served, manifest.version)
        await verify_images(client, served, manifest, images, timeout, on_answer)
    else:
        texts = await asyncio.to_thread(repository.load_check, served, manifest.version)
        await verify(client, served, manifest, texts, timeout, on_answer)


async def verify(
    client: TritonClient,
    served: str,
    manifest: Manifest,
    check: Check,
    timeout: float,
    on_answer: Callable[[], None],
) -> None:
    """Send the recorded rows as callers do, then alone and all at once past the cache; compare.

    Among the last are rows that have no finite vector: the others must not notice.

    Raises:
        InvalidModel: a vector differs, or is finite where there is none.
        TritonError: Triton does not answer.
    """
    ends = np.cumsum(check.lengths)
    rows = [check.input_ids[end - length : end] for end, length in zip(ends, check.lengths, strict=True)]

    async def infer(row: NDArray[np.int64]) -> NDArray[np.float32]:
        try:
            vectors = await client.infer(served, manifest.version, row, timeout=timeout)
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
    """The rows in their order, after some of them one of the same length and the planted id alone."""
    sent = []
    for number, row in enumerate(rows, start=1):
        sent.append(row)
        if planted_id is not None and number % PLANTED_EACH == 0:
            sent.append(np.full_like(row, planted_id))
    return sent


async def verify_images(
    client: TritonClient,
    served: str,
    manifest: Manifest,
    check: ImageCheck,
    timeout: float,
    on_answer: Callable[[], None],
) -> None:
    """The same with images.

    Raises:
        InvalidModel, TritonError: as `verify`.
    """

    async def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        vectors = await client.infer_images(served, manifest.version, images, timeout=timeout)
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
    """Hold the three answers, each float32 [n, D], to the reference, and the last two to each other.

    Raises:
        InvalidModel: a vector differs.
    """
    bounds = BOUNDS[manifest.precision]
    for vectors, expected, least in (
        (cached, reference, bounds.reference),
        (alone, reference, bounds.reference),
        (mixed, reference, bounds.reference),
        (mixed, alone, bounds.alone),
    ):
        lowest = float(cosines(vectors, expected).min())
        if not lowest >= least:
            raise InvalidModel(
                f"{manifest.model_name} as served by Triton differs from the reference: cosine {lowest:.6f}, "
                f"at least {least} is needed; it was not loaded"
            )
