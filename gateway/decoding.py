"""Images are decoded in threads, off the event loop, and no more at a time than memory allows."""

import asyncio
import ctypes
import os
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, _imaging

from gateway import image_sources
from gateway.budget import Budget
from gateway.images import Pixels, memory, open_image, preprocess
from triton_models.manifest import ImagePreprocessing

MEMORY = 192 << 20
"""Bytes that the large images being decoded hold together, about; one that needs more is decoded alone."""

SMALL = 8 << 20
"""Bytes up to which an image is decoded without asking: 2 megapixels. The threads bound their number."""

MOST_THREADS = 8

LARGE_BLOCK = 1 << 20
"""Bytes from which a block is mapped for itself; the images of most requests are below."""

_M_MMAP_THRESHOLD = -3


class ImageDecoder:
    """A pool of threads; Pillow lets go of the interpreter's lock while it decodes and resizes."""

    def __init__(self, *, max_bytes: int, max_pixels: int) -> None:
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._budget = Budget(MEMORY)
        give_back_large_blocks()
        silence_libtiff()

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decode(self, source: bytes | str, spec: ImagePreprocessing) -> Pixels:
        """The pixels of an image's bytes, or of a string that holds them: uint8 [height, width, 3].

        Raises:
            ImageError, ImageTooLarge: it cannot be used.
        """
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._threads, self._begin, source, spec)
        if not isinstance(done, Image.Image):
            return done
        async with self._budget.share(memory(done)):
            return await loop.run_in_executor(self._threads, preprocess, done, spec)

    def _begin(self, source: bytes | str, spec: ImagePreprocessing) -> Pixels | Image.Image:
        """The pixels of a small image; a large one opened, to be decoded when there is memory for it."""
        data = image_sources.decode(source, self._max_bytes) if isinstance(source, str) else source
        image = open_image(data, self._max_pixels)
        return preprocess(image, spec) if memory(image) <= SMALL else image


def give_back_large_blocks() -> None:
    """Have the C library return large blocks to the system at once, where it is glibc.

    By itself it begins to keep what is freed, in every thread, once a block of this size was freed: 64
    images of 12 megapixels then left 285 MB behind, and 7 MB with this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


def silence_libtiff() -> None:
    """Keep libtiff from writing to standard error: a line for each damaged row of a caller's image.

    The handlers are looked up through Pillow's module, whose own copy of the library is the one that decodes.
    """
    pillow = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetErrorHandlerExt", "TIFFSetWarningHandler"):
        set_handler = getattr(pillow, name, None)
        if set_handler is not None:
            set_handler(None)
