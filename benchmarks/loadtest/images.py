"""The images of all benchmarks: 640x480 JPEGs of mixed content, no two with the same pixels.

A constant image flatters a server: the answer comes from the cache, and decoding always takes the same time.
So the client makes a pool of images, from as smooth as the sky to as noisy as gravel, in files of 10 to
260 KB. A new image for every request would cost the client nearly as much as its answer costs the server.
Instead each request changes the quantisation tables of an image, which scale the coefficients of a JPEG and
so change its pixels.
"""

import base64
import io
import random
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.loadtest.selection import chosen, shuffled
from benchmarks.loadtest.settings import BenchmarkError, Settings

WIDTH, HEIGHT = 640, 480
POOL = 24
QUALITIES = (75, 85, 90, 95)

_DQT = b"\xff\xdb\x00\x43"
_TABLE_BYTES = 64
_VARIED = 6
"""The first entries of each of two tables, the lowest frequencies, rise by 0 to 3, for 4 ** 12 variants."""

_SUFFIXES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".gif": "gif", ".bmp": "bmp",
             ".tif": "tiff", ".tiff": "tiff", ".avif": "avif"}  # fmt: skip


class BuiltInImages:
    """JPEG files by serial number; two numbers never give the same pixels, not even in two processes."""

    def __init__(self, seed: int) -> None:
        self._pool = [_jpeg(made, QUALITIES[index % 4]) for index, made in enumerate(pictures(seed, POOL))]
        self._origin = random.Random(seed).randrange(4 ** (2 * _VARIED))

    def image(self, serial: int) -> bytes:
        """Return the file of one serial number."""
        round_of_pool, place = divmod(serial, POOL)
        return _with_tables(self._pool[place], (round_of_pool + self._origin) % 4 ** (2 * _VARIED))


def pictures(seed: int, number: int) -> Iterator[Image.Image]:
    """Yield RGB images of WIDTH x HEIGHT: smooth to noisy clouds behind shapes and lines."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = 1
    for index in range(number):
        # The steepness falls from 2, as smooth as a sky, to 0.7, as noisy as gravel; photographs are about 1.
        steepness = 2 - 1.3 * index / max(1, number - 1)
        waves = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
        # The channels share most of their light, as in photographs.
        waves = (waves[0] + 0.3 * waves) / frequency**steepness
        waves[:, 0, 0] = 0
        clouds = np.fft.irfft2(waves, s=(HEIGHT, WIDTH))
        light = clouds / clouds.std() * rng.uniform(25, 60) + rng.uniform(60, 190, (3, 1, 1))
        image = Image.fromarray(light.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        _draw(image, random.Random(f"{seed}/{index}"), shapes=index * 5 % 23)
        yield image


def _draw(image: Image.Image, draw: random.Random, shapes: int) -> None:
    canvas = ImageDraw.Draw(image)
    for _ in range(shapes):
        x, y = draw.randrange(WIDTH), draw.randrange(HEIGHT)
        box = (x, y, x + draw.randrange(20, 300), y + draw.randrange(20, 200))
        color = tuple(draw.randrange(256) for _ in range(3))
        kind = draw.randrange(3)
        if kind == 0:
            canvas.ellipse(box, fill=color)
        elif kind == 1:
            canvas.rectangle(box, fill=color, outline=(0, 0, 0))
        else:
            canvas.line(box, fill=color, width=draw.randrange(1, 12))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return written.getvalue()


def _with_tables(jpeg: bytes, variant: int) -> bytes:
    """Add the digits of `variant`, in base 4, to the first entries of both quantisation tables."""
    changed = bytearray(jpeg)
    at = -1
    for _ in range(2):
        at = jpeg.index(_DQT, at + 1)
        start = at + len(_DQT) + 1  # after the table's number
        for entry in range(start, start + _VARIED):
            variant, digit = divmod(variant, 4)
            changed[entry] = min(255, changed[entry] + digit)
    return bytes(changed)


def data_uri(content: bytes, kind: str = "jpeg") -> str:
    """Return a file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def read_images(settings: Settings) -> list[Path]:
    """Find the images in `--image-dir` and below by their suffixes; return them in random order.

    Raises:
        BenchmarkError: There are too few images.
    """
    assert settings.image_dir is not None
    found = sorted(path for path in settings.image_dir.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return shuffled(found, settings, f"--image-dir {settings.image_dir}")


def images(settings: Settings, process: int) -> Iterator[str]:
    """Yield one process's images as data URIs, forever."""
    given: Sequence[Path | int] = range(settings.distinct or 0)
    if settings.image_dir is not None:
        given = read_images(settings)
    else:
        made = BuiltInImages(settings.seed)
    draw = random.Random(f"{settings.seed}/{process}/images")
    for one in chosen(given, count(process, settings.processes), settings, process, draw):
        yield data_uri(made.image(one)) if isinstance(one, int) else _read(one)


def _read(path: Path) -> str:
    try:
        return data_uri(path.read_bytes(), _SUFFIXES[path.suffix.lower()])
    except OSError as error:
        raise BenchmarkError(f"--image-dir: {error}") from error
