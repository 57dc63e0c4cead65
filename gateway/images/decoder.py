"""Decodes images in threads, off the event loop, and bounds the memory that they use at a time."""

import asyncio
import ctypes
import functools
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from PIL import _imaging

from gateway.concurrency import Deadline, WeightedSemaphore, too_late
from gateway.images import sources
from gateway.images.preprocessing import Pixels, memory, open_image, preprocess
from gateway.memory import give_back_large_blocks
from gateway.telemetry.tracing import traced
from triton_models.contract.manifest import ImagePreprocessing

MEMORY = 192 << 20
"""Approximate bytes for all large images being decoded; an image that needs more is decoded alone."""

SMALL = 8 << 20
"""Bytes up to which an image does not wait for memory: 2 megapixels. The threads bound their number."""

MOST_THREADS = 8

_BYTES_A_SECOND = 256 << 20
"""Approximate decoding rate on a slow CPU; an image that cannot be decoded in time is not started."""


class Unwanted(Exception):
    """No request waits for this image any more."""


class ImageDecoder:
    """A pool of decoding threads; Pillow releases the GIL while it decodes and resizes.

    A thread cannot be killed. So `open_image` accepts no image that costs more than its size implies, and a
    thread whose request has ended stops at its next read or step.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        self._limits = max_bytes, max_pixels
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._budget = WeightedSemaphore(MEMORY)
        give_back_large_blocks()
        silence_libtiff()

    def close(self) -> None:
        """End the threads without waiting for their current work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @traced("decode image")
    async def decode(
        self, source: bytes | str, spec: ImagePreprocessing, deadline: Deadline | None = None
    ) -> Pixels:
        """Decode an image and prepare it for a model.

        Args:
            source: The image's bytes, or a data URI or base64 string of them.
            spec: The model's preprocessing.
            deadline: The request's; None for no limit.

        Returns:
            Pixels uint8 [height, width, 3], RGB.

        Raises:
            ImageError, ImageTooLarge: The image cannot be used.
            DeadlineExceeded: Decoding would take longer than the request has left.
        """
        work = _Work(source, spec, self._limits)
        try:
            done = await asyncio.wrap_future(self._threads.submit(work.run, SMALL))
            if not isinstance(done, int):
                return done
            share = await self._budget.take(done)
            if deadline is not None and time.monotonic() + done / _BYTES_A_SECOND > deadline.moment:
                self._budget.give(share)
                raise too_late()
            working = self._threads.submit(work.run, None)
            # The share is given back when the thread ends, not the request: the thread uses it until then.
            working.add_done_callback(functools.partial(self._give, asyncio.get_running_loop(), share))
            pixels = await asyncio.wrap_future(working)
            assert not isinstance(pixels, int)
            return pixels
        finally:
            work.wanted = False

    def _give(self, loop: asyncio.AbstractEventLoop, share: int, _: object) -> None:
        # At the end of the process a thread may outlive the loop.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._budget.give, share)


class _Work:
    """The decoding of one image in a thread; it stops when `wanted` becomes false."""

    def __init__(self, source: bytes | str, spec: ImagePreprocessing, limits: tuple[int, int]) -> None:
        self.wanted = True
        self._source = source
        self._spec = spec
        self._max_bytes, self._max_pixels = limits

    def run(self, most: int | None) -> Pixels | int:
        """Return the pixels, or, if decoding needs more than `most` bytes of memory, that number of bytes.

        Nothing of a large image is kept until there is memory for it; it is then opened again.
        """
        self.check()
        source = self._source
        data = sources.decode(source, self._max_bytes) if isinstance(source, str) else source
        image = open_image(data, self._max_pixels, lambda content: _Reading(content, self))
        needed = memory(image)
        if most is not None and needed > most:
            return needed
        return preprocess(image, self._spec, self.check)

    def check(self) -> None:
        """Stop the thread's work if the image is no longer wanted.

        Raises:
            Unwanted: No request waits for the image any more.
        """
        if not self.wanted:
            raise Unwanted


class _Reading(io.BytesIO):
    """A file of an image's bytes; each read stops the decoder if the image is no longer wanted."""

    def __init__(self, content: bytes, work: _Work) -> None:
        super().__init__(content)
        self._work = work

    def read(self, size: int | None = -1, /) -> bytes:
        self._work.check()
        return super().read(size)


def silence_libtiff() -> None:
    """Keep libtiff from writing a line to standard error for each damaged row of a caller's image.

    The handlers are looked up through Pillow's module, because its own copy of libtiff does the decoding.
    """
    pillow = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetErrorHandlerExt", "TIFFSetWarningHandler"):
        set_handler = getattr(pillow, name, None)
        if set_handler is not None:
            set_handler(None)
