"""Images to vectors: fetch, decode, send to Triton, put the answers in order.

Each image goes to Triton alone, so that each can hit its cache, and is merged with others in its dynamic
batcher. However many images a request carries, only so many are in memory at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import NamedTuple

import numpy as np

from gateway.errors import InvalidInput, NoVector, TooLarge
from gateway.images.decoder import ImageDecoder
from gateway.images.fetcher import ImageFetcher
from gateway.images.headers import ImageError, ImageTooLarge
from gateway.images.sources import is_url
from gateway.inference.admission import Admission
from gateway.inference.deadline import Deadline, too_late
from gateway.inference.disconnect import watch_caller
from gateway.inference.slots import Visit
from gateway.inference.vectors import NOT_FINITE, Vectors, unit_length
from gateway.model_id import Reference
from gateway.models.catalog import Catalog, ImageModel
from gateway.models.readiness import Verified
from gateway.telemetry.metrics import images_of
from triton_models.client.errors import NotFinite, TritonTimeout
from triton_models.client.requests import Queueing
from triton_models.server.supervisor import Triton

OF_ONE_REQUEST = 64
"""Images of one request that are worked on at a time."""

FETCHES_OF_ONE_REQUEST = 8
"""Of these, how many are fetched at a time: one request's slow hosts must not hold up another's images."""

DECODED = 64
"""Images of one lane that are decoded and not answered yet: some megabytes, a full batch."""


class ImageEmbedder:
    """Embeds images with any loaded CLIP model."""

    def __init__(
        self,
        catalog: Catalog,
        triton: Triton,
        verified: Verified,
        admission: Admission,
        fetcher: ImageFetcher,
        decoder: ImageDecoder,
        *,
        max_inputs: int,
        timeout: float,
    ) -> None:
        self._catalog = catalog
        self._triton = triton
        self._verified = verified
        self._admission = admission
        self._fetcher = fetcher
        self._decoder = decoder
        self._max_inputs = max_inputs
        self._timeout = timeout

    async def embed(
        self,
        reference: Reference,
        images: Sequence[str],
        *,
        normalize: bool,
        field: str = "image",
        timeout_ms: int | None = None,
    ) -> Vectors:
        """Vectors float32 [len(images), D], in order.

        images: http(s) URLs, data URIs or base64. field: where they are in the caller's body, for messages.
        timeout_ms: of the caller.

        Raises:
            TooLarge: more images than the limit, or one of them is over a limit.
            InvalidInput, NoVector: an image cannot be used; its index is in the message.
            ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: as their names say.
        """
        if not reference.is_clip:
            raise InvalidInput(
                f"{field}: model {reference} embeds text only; a CLIP model is named with pretrained"
            )
        if len(images) > self._max_inputs:
            raise TooLarge(f"{len(images)} images in one request; the limit is {self._max_inputs}")
        deadline = Deadline.of(timeout_ms, self._timeout)
        watch_caller()
        try:
            async with asyncio.timeout(deadline.remaining()):
                model, vectors = await self._verified.answer(
                    self._catalog.images,
                    reference,
                    lambda model: self._embed(model, images, field, deadline),
                )
        except TimeoutError as error:
            raise too_late() from error
        images_of(model.served).inc(len(images))
        return unit_length(vectors) if normalize and not model.manifest.normalized else vectors

    async def _embed(
        self, model: ImageModel, images: Sequence[str], field: str, deadline: Deadline
    ) -> Vectors:
        vectors = np.empty((len(images), model.manifest.dimensions), dtype=np.float32)
        fetches = asyncio.Semaphore(FETCHES_OF_ONE_REQUEST)
        lane = self._admission.lane(model.served, len(images), DECODED)
        with Visit(lane, len(images), deadline) as visit:
            work = _Work(model, fetches, deadline, visit)

            async def one(index: int) -> None:
                try:
                    vectors[index] = await self._embed_one(work, images[index])
                except ImageTooLarge as error:
                    raise TooLarge(f"{field}.{index}: {error}") from error
                except ImageError as error:
                    raise InvalidInput(f"{field}.{index}: {error}") from error
                except NotFinite as error:
                    raise NoVector(f"{field}.{index}: {NOT_FINITE}") from error

            await each(one, len(images), OF_ONE_REQUEST)
        return vectors

    async def _embed_one(self, work: "_Work", image: str) -> Vectors:
        model, fetches, deadline, visit = work
        fetched = is_url(image)
        async with AsyncExitStack() as in_triton:
            async with (
                fetches if fetched else nullcontext(),
                self._fetcher.fetch(image) if fetched else nullcontext(image) as source,
            ):
                turn = in_triton.enter_context(await visit.turn(1))
                pixels = await self._decoder.decode(source, model.preprocessing, deadline)
            # The encoded bytes must not wait for Triton.
            del source
            try:
                vectors = await self._triton.client.infer_images(
                    model.served,
                    model.version,
                    pixels[np.newaxis],
                    timeout=deadline.remaining(),
                    queueing=Queueing(deadline.own, turn),
                )
            except TritonTimeout as error:
                raise too_late() from error
            return np.asarray(vectors[0])


class _Work(NamedTuple):
    """What all images of one request have in common."""

    model: ImageModel
    fetches: asyncio.Semaphore
    deadline: Deadline
    visit: Visit


async def each(work: Callable[[int], Awaitable[None]], count: int, at_once: int) -> None:
    """`work` of 0 to `count` - 1, `at_once` at a time; the first failure cancels the others and is raised."""
    if count == 1:
        await work(0)
        return
    indices = iter(range(count))

    async def worker() -> None:
        for index in indices:
            await work(index)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, count)):
                tasks.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
