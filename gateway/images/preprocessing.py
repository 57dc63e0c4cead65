"""Turns an image's bytes into the pixels that a model takes. Pure functions; no network, no event loop.

The steps are those of open_clip's own transform, in the same order: resize in the image's own mode, crop or
pad, convert to RGB. EXIF orientation is not applied, because open_clip's transform does not apply it.
Sources: open_clip 3.3, `transform.py` (MIT licence); torchvision, `transforms/functional.py` (BSD-3-Clause).
"""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Only the readers imported here can open an image; none of Pillow's other readers can.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from gateway.images import headers
from gateway.images.avif import avif
from gateway.images.headers import Checked, ImageError, ImageTooLarge
from gateway.images.tiff import tiff
from triton_models.contract.manifest import ImagePreprocessing

Pixels = NDArray[np.uint8]

_KINDS: dict[bytes, tuple[type[ImageFile.ImageFile], Callable[[bytes, int], Checked]]] = {
    b"\xff\xd8\xff": (JpegImagePlugin.JpegImageFile, headers.jpeg),
    b"\x89PNG\r\n\x1a\n": (PngImagePlugin.PngImageFile, headers.png),
    b"RIFF": (WebPImagePlugin.WebPImageFile, headers.webp),
    b"GIF8": (GifImagePlugin.GifImageFile, headers.gif),
    b"BM": (BmpImagePlugin.BmpImageFile, headers.bmp),
    b"II": (TiffImagePlugin.TiffImageFile, tiff),
    b"MM": (TiffImagePlugin.TiffImageFile, tiff),
    b"ftyp": (AvifImagePlugin.AvifImageFile, avif),
}
"""Pillow's reader and the check before it, by the image's first bytes; for AVIF, by its second word."""

FORMATS = tuple(
    dict.fromkeys(str(reader.format) for reader, _ in _KINDS.values() if reader.format in Image.OPEN)
)
"""Accepted formats, detected from the content; types that a server or a caller declares are ignored."""

_LONGEST_EDGE = 1 << 18
"""Most pixels of an edge: resizing holds 32 bytes of weights per pixel of it, however short the other is."""

_LARGEST_DETOUR = 8
"""Up to this many times the model's size, an enlarged image is made whole and cropped, as in torchvision."""

_MARGIN = 4
"""Pixels around the resized part that are kept for the filter: Pillow's widest filter here needs two."""

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Exceptions that Pillow's readers raise for damaged content.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)


_MOST_BYTES_A_PIXEL = 24
"""Largest result of `memory`, per allowed pixel, for an image whose header is honest."""

_EXTRA = "extra"
"""Key of `Image.info` for the bytes of memory that decoding needs beyond what mode and size imply."""


def open_image(data: bytes, max_pixels: int, file: Callable[[bytes], io.BytesIO] = io.BytesIO) -> Image.Image:
    """Check an image and read its header; nothing is decoded yet.

    Args:
        data: The image's bytes.
        max_pixels: MAX_IMAGE_PIXELS.
        file: Makes the file that the decoder reads from.

    Raises:
        ImageError: The image has no known format, or would cost more than its size implies.
        ImageTooLarge: It has more than `max_pixels` pixels, or too long an edge.
    """
    if not data:
        raise ImageError("no bytes")
    reader, check = _kind(data)
    checked = check(data, max_pixels)
    # Pillow's own guard warns above this number and raises above twice it, also when a frame is larger.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(file(checked.data), formats=(str(reader.format),))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"more than the {max_pixels} pixels that are taken") from error
    except (*_DAMAGED, MemoryError) as error:
        raise _unknown() from error
    image.info[_EXTRA] = checked.extra
    if image.width * image.height > max_pixels or memory(image) > _MOST_BYTES_A_PIXEL * max_pixels:
        raise headers.too_many_pixels(image.width, image.height, max_pixels)
    if max(image.size) > _LONGEST_EDGE:
        raise ImageTooLarge(f"{image.width}x{image.height} pixels, an edge of more than {_LONGEST_EDGE}")
    return image


def _kind(data: bytes) -> tuple[type[ImageFile.ImageFile], Callable[[bytes, int], Checked]]:
    for start, kind in _KINDS.items():
        if data.startswith(start, 4 if start == b"ftyp" else 0):
            return kind
    raise _unknown()


def _unknown() -> ImageError:
    return ImageError(f"not an image of a known format ({', '.join(FORMATS)})")


def memory(image: Image.Image) -> int:
    """Return an upper bound of the bytes that decoding and resizing an opened image hold at a time."""
    width, height = image.size
    stored = 1 if image.mode in ("1", "L", "P") else 4
    if image.format == "WEBP":
        # The decoder's own planes or canvases, its output, and Pillow's image.
        each = 20
    elif image.format == "AVIF":
        # The decoder's output twice, and Pillow's image; the decoder's planes are in `_EXTRA`.
        each = 12
    elif image.format == "TIFF":
        # A strip or tile is decoded whole, at up to 12 bytes a pixel; a tile may be larger than the image.
        width = max(width, _tag(image, TiffImagePlugin.TILEWIDTH))
        height = max(height, _tag(image, TiffImagePlugin.TILELENGTH))
        each = 4 * stored
    else:
        each = stored
    if image.mode in ("LA", "PA", "RGBA"):
        # Resizing works on a copy with premultiplied alpha.
        each += 4
    return each * width * height + int(image.info.get(_EXTRA, 0))


def _tag(image: Image.Image, number: int) -> int:
    """Return the integer value of a TIFF's tag, 0 if there is none."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    value = image.tag_v2.get(number, 0)
    return value if isinstance(value, int) else 0


def preprocess(
    image: Image.Image, spec: ImagePreprocessing, check: Callable[[], None] = lambda: None
) -> Pixels:
    """Decode an opened image and bring it to the model's size.

    Args:
        image: From `open_image`.
        spec: The model's preprocessing.
        check: Called between decoding and resizing; an exception from it ends the work.

    Returns:
        Pixels uint8 [height, width, 3], RGB.

    Raises:
        ImageError: The image is damaged or cut short, or needs too much memory.
        ImageTooLarge: It has too many pixels.
    """
    try:
        image.load()
        check()
        fitted = _FIT[spec.resize_mode](image, spec)
        # A copy, because a view of Pillow's memory would be read-only and keep the image alive.
        return np.array(fitted.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge("too many pixels") from error
    except _DAMAGED as error:
        raise ImageError("damaged, cut short, or of a kind that cannot be decoded") from error
    except MemoryError as error:
        raise ImageError("decoding it takes too much memory") from error


def _shortest(image: Image.Image, spec: ImagePreprocessing) -> Image.Image:
    """Resize the shorter edge to the model's size, the longer in proportion, and crop the centre."""
    width, height = image.size
    if spec.height == spec.width:
        # torchvision's Resize: the longer edge is rounded down.
        size, resample = spec.width, _INTERPOLATIONS[spec.interpolation]
        longer = int(size * max(width, height) / min(width, height))
        resized = (size, longer) if width <= height else (longer, size)
    else:
        # open_clip's ResizeKeepRatio, to which it passes no interpolation: bicubic, whatever the model says.
        ratio = min(height / spec.height, width / spec.width)
        resized, resample = (round(width / ratio), round(height / ratio)), Image.Resampling.BICUBIC
    enlarged = resized[0] * resized[1]
    if enlarged > max(_LARGEST_DETOUR * spec.width * spec.height, image.width * image.height):
        return _resize_centre(image, resized, spec, resample)
    return _centre(_resize(image, resized, resample), spec, fill=0)


def _longest(image: Image.Image, spec: ImagePreprocessing) -> Image.Image:
    """Resize the longer edge to the model's size, the shorter in proportion, and pad the rest."""
    ratio = max(image.height / spec.height, image.width / spec.width)
    # open_clip fails if this rounds to 0 pixels.
    resized = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    return _centre(_resize(image, resized, _INTERPOLATIONS[spec.interpolation]), spec, fill=spec.fill_color)


def _squash(image: Image.Image, spec: ImagePreprocessing) -> Image.Image:
    """Resize both edges to the model's size."""
    return _resize(image, (spec.width, spec.height), _INTERPOLATIONS[spec.interpolation])


_FIT = {"shortest": _shortest, "longest": _longest, "squash": _squash}


def _resize(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _resize_centre(
    image: Image.Image, resized: tuple[int, int], spec: ImagePreprocessing, resample: Image.Resampling
) -> Image.Image:
    """Return the centre of `image` as enlarged to `resized`, without computing the rest.

    An image of 1x10,000 pixels, its shorter edge enlarged to 224, would otherwise become 224x2,240,000. The
    result is within 1/255 of the whole image's; where alpha is small, division by alpha enlarges that.
    """
    left, top = round((resized[0] - spec.width) / 2.0), round((resized[1] - spec.height) / 2.0)
    across, down = image.width / resized[0], image.height / resized[1]
    x0, x1 = left * across, (left + spec.width) * across
    y0, y1 = top * down, (top + spec.height) * down
    near_x, near_y = max(0, int(x0) - _MARGIN), max(0, int(y0) - _MARGIN)
    part = image.crop(
        (near_x, near_y, min(image.width, int(x1) + _MARGIN), min(image.height, int(y1) + _MARGIN))
    )
    # `resize` would premultiply alpha in each of the two steps; here it is done once.
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(image.mode)
    part = part.convert(premultiplied) if premultiplied else part
    # Pillow chooses the order by the sizes; to enlarge, it uses this one. Rounding makes the order matter.
    part = part.resize((spec.width, part.height), resample, box=(x0 - near_x, 0, x1 - near_x, part.height))
    part = part.resize((spec.width, spec.height), resample, box=(0, y0 - near_y, spec.width, y1 - near_y))
    return part.convert(image.mode) if premultiplied else part


def _centre(image: Image.Image, spec: ImagePreprocessing, fill: int) -> Image.Image:
    """Crop the centre to the model's size, padding a smaller image; rounded as in torchvision."""
    missing_x, missing_y = max(0, spec.width - image.width), max(0, spec.height - image.height)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        image = _filled(image, border, fill)
    left, top = round((image.width - spec.width) / 2.0), round((image.height - spec.height) / 2.0)
    if image.size == (spec.width, spec.height):
        return image
    return image.crop((left, top, left + spec.width, top + spec.height))


def _filled(image: Image.Image, border: tuple[int, int, int, int], fill: int) -> Image.Image:
    """Add a border in the image's own mode; in a palette image `fill` is an index."""
    bands = len(image.getbands())
    wider = ImageOps.expand(image, border=border, fill=fill if bands == 1 else (fill,) * bands)
    if image.mode == "P":
        wider.putpalette(image.getpalette() or [])
    return wider
