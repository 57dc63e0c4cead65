"""Images are decoded in threads, off the event loop, and no more at a time than memory allows."""

import asyncio
import ctypes
import functools
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from PIL import _imaging

from gateway.concurrency import Budget
from gateway.images import sources
from gateway.images.preprocessing import Pixels, memory, open_image, preprocess
from gateway.inference.deadline import Deadline, too_late
from gateway.memory import give_back_large_blocks
from triton_models.contract.manifest import ImagePreprocessing

MEMORY = 192 << 20
"""Bytes that the large images being decoded hold together, about; one that needs more is decoded alone."""

SMALL = 8 << 20
"""Bytes up to which an image is decoded without asking: 2 megapixels. The threads bound their number."""

MOST_THREADS = 8

_BYTES_A_SECOND = 256 << 20
"""Of an image's memory, about, on a slow processor: an image that cannot be done in time is not begun."""


class Unwanted(Exception):
    """Nobody waits for this image any more."""


class ImageDecoder:
    """A pool of threads; Pillow lets go of the interpreter's lock while it decodes and resizes.

    A thread cannot be ended. So `open_image` takes no image that costs more than its size says, and a thread
    stops where it next reads or begins a step once its request is gone.
    """

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        self._limits = max_bytes, max_pixels
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._budget = Budget(MEMORY)
        give_back_large_blocks()
        silence_libtiff()

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decode(
        self, source: bytes | str, spec: ImagePreprocessing, deadline: Deadline | None = None
    ) -> Pixels:
        """The pixels of an image's bytes, or of a string that holds them: uint8 [height, width, 3].

        Raises:
            ImageError, ImageTooLarge: it cannot be used.
            DeadlineExceeded: it needs longer than the request has.
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
            # Not when the request ends: the thread holds the memory as long as it works.
            working.add_done_callback(functools.partial(self._give, asyncio.get_running_loop(), share))
            pixels = await asyncio.wrap_future(working)
            assert not isinstance(pixels, int)
            return pixels
        finally:
            work.wanted = False

    def _give(self, loop: asyncio.AbstractEventLoop, share: int, _: object) -> None:
        # A thread may outlive the loop, at the end of the process.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._budget.give, share)


class _Work:
    """One image, decoded in a thread for as long as it is wanted."""

    def __init__(self, source: bytes | str, spec: ImagePreprocessing, limits: tuple[int, int]) -> None:
        self.wanted = True
        self._source = source
        self._spec = spec
        self._max_bytes, self._max_pixels = limits

    def run(self, most: int | None) -> Pixels | int:
        """The pixels; or, where decoding holds more than `most` bytes, how many.

        Nothing is kept of a large image until there is memory for it: it is opened again then.
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
        """End the thread's work if nobody waits for it.

        Raises:
            Unwanted: so it is.
        """
        if not self.wanted:
            raise Unwanted


class _Reading(io.BytesIO):
    """An image's bytes as its decoder reads them, a block at a time."""

    def __init__(self, content: bytes, work: _Work) -> None:
        super().__init__(content)
        self._work = work

    def read(self, size: int | None = -1, /) -> bytes:
        self._work.check()
        return super().read(size)


def silence_libtiff() -> None:
    """Keep libtiff from writing to standard error: a line for each damaged row of a caller's image.

    The handlers are looked up through Pillow's module, whose own copy of the library is the one that decodes.
    """
    pillow = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetErrorHandlerExt", "TIFFSetWarningHandler"):
        set_handler = getattr(pillow, name, None)
        if set_handler is not None:
            set_handler(None)
