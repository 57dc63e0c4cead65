"""The threads that decode: what they hold, and when they stop."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from PIL import Image

from gateway.concurrency import Deadline
from gateway.errors import DeadlineExceeded
from gateway.images import decoder as decoding
from gateway.images.decoder import MEMORY, ImageDecoder, Unwanted, _Reading, _Work
from gateway.images.preprocessing import Pixels, open_image, preprocess
from tests.support.pictures import encoded
from triton_models.contract.manifest import ImagePreprocessing

SPEC = ImagePreprocessing(32, 32, "shortest", "bicubic")
LARGE = encoded(Image.new("RGB", (6000, 6000)), "WEBP", method=0)
"""Decoded in one call, which nothing stops: some tenths of a second."""


def run(case: Callable[[ImageDecoder], Awaitable[None]]) -> None:
    async def with_decoder() -> None:
        decoder = ImageDecoder(max_bytes=16 << 20, max_pixels=64_000_000)
        try:
            await case(decoder)
        finally:
            decoder.close()

    asyncio.run(with_decoder())


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_memory_is_held_until_the_thread_is_back() -> None:
    async def case(decoder: ImageDecoder) -> None:
        budget = decoder._budget
        asked = asyncio.create_task(decoder.decode(LARGE, SPEC))
        await until(lambda: budget._free < MEMORY)
        # By then the thread has opened it.
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        # The request is gone; its image is still being decoded.
        assert budget._free < MEMORY
        await until(lambda: budget._free == MEMORY)
        # And nothing is lost: a whole one fits again.
        assert (await decoder.decode(LARGE, SPEC)).shape == (32, 32, 3)
        await until(lambda: budget._free == MEMORY)

    run(case)


def test_what_waits_for_memory_holds_none() -> None:
    async def case(decoder: ImageDecoder) -> None:
        whole = await decoder._budget.take(MEMORY)
        asked = [asyncio.create_task(decoder.decode(LARGE, SPEC)) for _ in range(3)]
        await until(lambda: len(decoder._budget._waiting) == 3)
        for task in asked[:2]:
            task.cancel()
        decoder._budget.give(whole)
        assert (await asked[2]).shape == (32, 32, 3)
        await until(lambda: decoder._budget._free == MEMORY)

    run(case)


@pytest.mark.parametrize("seconds", [0.01, -1])
def test_an_image_that_cannot_be_done_in_time_is_not_begun(seconds: float) -> None:
    async def case(decoder: ImageDecoder) -> None:
        with pytest.raises(DeadlineExceeded):
            await decoder.decode(LARGE, SPEC, Deadline(time.monotonic() + seconds))
        assert decoder._budget._free == MEMORY
        late = Deadline(time.monotonic() + 60)
        assert (await decoder.decode(LARGE, SPEC, late)).shape == (32, 32, 3)

    run(case)


def test_the_thread_of_a_request_that_is_gone_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gone, stopped = (threading.Event() for _ in range(3))

    def after_the_request(image: Image.Image, spec: ImagePreprocessing, check: Callable[[], None]) -> Pixels:
        begun.set()
        assert gone.wait(60)
        try:
            return preprocess(image, spec, check)
        except Unwanted:
            stopped.set()
            raise

    async def case(decoder: ImageDecoder) -> None:
        asked = asyncio.create_task(decoder.decode(encoded(Image.new("RGB", (90, 60)), "PNG"), SPEC))
        assert await asyncio.to_thread(begun.wait, 60)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        gone.set()
        # It returns when the thread has.
        decoder._threads.shutdown(wait=True)
        assert stopped.is_set()

    monkeypatch.setattr(decoding, "preprocess", after_the_request)
    run(case)


def test_a_thread_stops_reading_for_a_request_that_is_gone() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "PNG")
    work = _Work(data, SPEC, (16 << 20, 64_000_000))
    image = open_image(data, 64_000_000, lambda content: _Reading(content, work))
    work.wanted = False
    with pytest.raises(Unwanted):
        image.load()
    with pytest.raises(Unwanted):
        work.run(None)
