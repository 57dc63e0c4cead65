"""Embeds images: fetches and decodes them, sends them to Triton, and puts the answers in order.

Each image is sent to Triton alone, so that each can hit Triton's cache; Triton's dynamic batcher merges it
with others. The number of images in memory is bounded, however many a request carries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np

from gateway.concurrency import Deadline, too_late
from gateway.errors import InvalidInput, NoVector, TooLarge
from gateway.images.decoder import ImageDecoder
from gateway.images.fetcher import ImageFetcher
from gateway.images.headers import ImageError, ImageTooLarge
from gateway.images.sources import is_url
from gateway.inference.admission import Admission
from gateway.inference.disconnect import watch_caller
from gateway.inference.slots import Ticket
from gateway.inference.vectors import NOT_FINITE, Vectors, unit_length
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog, ImageModel
from gateway.models.readiness import ReadinessGate
from gateway.telemetry.metrics import images_of
from triton_models.client.errors import NotFinite, TritonTimeout
from triton_models.client.requests import QueueOptions
from triton_models.server.triton import Triton

OF_ONE_REQUEST = 64
"""Images of one request that are processed at a time."""

FETCHES_OF_ONE_REQUEST = 8
"""Images of one request that are fetched at a time: its slow hosts must not hold up other requests."""

DECODED = 64
"""Images of one lane that are decoded but not answered yet: a full batch, some megabytes."""


@dataclass(eq=False)
class ImageEmbedder:
    """Embeds images with any loaded CLIP model."""

    catalog: Catalog
    triton: Triton
    readiness: ReadinessGate
    admission: Admission
    fetcher: ImageFetcher
    decoder: ImageDecoder
    _: KW_ONLY
    max_inputs: int
    timeout: float

    async def embed(
        self,
        model_id: ModelId,
        images: Sequence[str],
        *,
        normalize: bool,
        field: str = "image",
        timeout_ms: int | None = None,
    ) -> Vectors:
        """Embed images with a CLIP model.

        Args:
            model_id: The model.
            images: http(s) URLs, data URIs or base64.
            normalize: Whether to scale the vectors to unit length.
            field: The place of the images in the caller's body, for messages.
            timeout_ms: The caller's time limit, in milliseconds.

        Returns:
            Vectors float32 [len(images), D], in the order of the images.

        Raises:
            TooLarge: There are more images than the limit, or an image is over a limit.
            InvalidInput, NoVector: An image cannot be used; its index is in the message.
            InvalidInput: The model is not a CLIP model.
            ModelNotFound, ModelConflict, Overloaded, Unavailable, DeadlineExceeded: As their names say.
        """
        if not model_id.is_clip:
            raise InvalidInput(
                f"{field}: model {model_id} embeds text only; a CLIP model is named with pretrained"
            )
        if len(images) > self.max_inputs:
            raise TooLarge(f"{len(images)} images in one request; the limit is {self.max_inputs}")
        deadline = Deadline.of(timeout_ms, self.timeout)
        watch_caller()
        try:
            async with asyncio.timeout(deadline.remaining()):
                model, vectors = await self.readiness.run_on_ready(
                    self.catalog.images,
                    model_id,
                    lambda model: self._embed(model, images, field, deadline),
                )
        except TimeoutError as error:
            raise too_late() from error
        images_of(model.triton_name).inc(len(images))
        return unit_length(vectors) if normalize and not model.manifest.normalized else vectors

    async def _embed(
        self, model: ImageModel, images: Sequence[str], field: str, deadline: Deadline
    ) -> Vectors:
        vectors = np.empty((len(images), model.manifest.dimensions), dtype=np.float32)
        fetches = asyncio.Semaphore(FETCHES_OF_ONE_REQUEST)
        lane = self.admission.lane(model.triton_name, len(images), DECODED)
        with Ticket(lane, len(images), len(images), deadline) as ticket:
            work = _Work(model, fetches, deadline, ticket)

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
        model, fetches, deadline, ticket = work
        fetched = is_url(image)
        async with AsyncExitStack() as in_triton:
            async with (
                fetches if fetched else nullcontext(),
                self.fetcher.fetch(image) if fetched else nullcontext(image) as source,
            ):
                slot = in_triton.enter_context(await ticket.acquire(1))
                pixels = await self.decoder.decode(source, model.preprocessing, deadline)
            # Free the encoded bytes: they must not stay in memory while the request waits for Triton.
            del source
            try:
                vectors = await self.triton.client.infer_images(
                    model.triton_name,
                    model.version,
                    pixels[np.newaxis],
                    timeout=deadline.remaining(),
                    queueing=QueueOptions(deadline.own, slot),
                )
            except TritonTimeout as error:
                raise too_late() from error
            return np.asarray(vectors[0])


class _Work(NamedTuple):
    """Objects that all images of one request share."""

    model: ImageModel
    fetches: asyncio.Semaphore
    deadline: Deadline
    ticket: Ticket


async def each(work: Callable[[int], Awaitable[None]], count: int, at_once: int) -> None:
    """Run `work(0)` to `work(count - 1)`, `at_once` at a time; cancel the rest on a failure and raise it."""
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
