"""Pictures for tests in every format and mode that Pillow writes; generated when needed, always the same."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def photo(width: int = 90, height: int = 60, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture with smooth and noisy parts, so that both resizing and coding change it visibly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + band)) + np.cos(y / (5 - band)) for band in range(3)]
    smooth = np.stack(waves, axis=-1) * 50 + 128
    noisy = smooth + rng.normal(0, 25, smooth.shape) * (x > width // 2)[..., None]
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        alpha = Image.fromarray(((x * 7 + y * 3) % 256).astype(np.uint8))
        image.putalpha(alpha)
        return image
    if mode == "I;16":
        gray = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.fromarray(gray)
    return image.convert(mode)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    written = io.BytesIO()
    image.save(written, image_format, **options)
    return written.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _frames(image_format: str) -> bytes:
    options = {} if image_format == "TIFF" else {"duration": 50}
    return encoded(photo(), image_format, save_all=True, append_images=[photo(seed=1)], **options)


def _interlaced_png() -> bytes:
    """Return an Adam7 PNG, which Pillow can read but not write: RGB, 8 bits, no filter."""
    pixels = np.asarray(photo())
    height, width, _ = pixels.shape
    rows = b""
    for x0, y0, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for row in pixels[y0::dy, x0::dx]:
            rows += b"\0" + row.tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def _text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a word " * 1000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    return text


def _tiled_tiff() -> bytes:
    """Return a TIFF of 16x16 tiles, which Pillow can read but not write: 90x60 gray, padded at the edges."""
    pixels = np.zeros((64, 96), np.uint8)
    pixels[:60, :90] = np.asarray(photo(mode="L"))
    tiles = [pixels[y : y + 16, x : x + 16].tobytes() for y in range(0, 64, 16) for x in range(0, 96, 16)]
    count, start = len(tiles), 8 + 256 * len(tiles)
    offsets = struct.pack(f"<{count}I", *range(8, start, 256)) + struct.pack(f"<{count}I", *[256] * count)
    tags = {256: (1, 90), 257: (1, 60), 258: (1, 8), 259: (1, 1), 262: (1, 1), 277: (1, 1), 322: (1, 16)}
    tags |= {323: (1, 16), 324: (count, start), 325: (count, start + 4 * count)}
    entries = b"".join(struct.pack("<HHII", number, 4, *value) for number, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, start + 8 * count) + b"".join(tiles) + offsets + directory


def _run_length_bmp() -> bytes:
    """Return a run-length BMP, which Pillow can read but not write: runs, literal pixels, ends of lines."""
    rows = b"".join(bytes([40, row, 3, 200, 0, 3, 9, row, 7, 0, 0, 0]) for row in range(30))
    colors = b"".join(bytes([i, 255 - i, i // 2, 0]) for i in range(256))
    data = rows + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 46, 30, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + head + colors + data


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and contains almost nothing."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    parts = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (head, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_tile_tiff(edge: int) -> bytes:
    """Return a TIFF of 16x16 pixels in one tile of `edge` times `edge`."""
    data = zlib.compress(bytes(4096))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: edge, 323: edge, 324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory


PICTURES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(photo(), "JPEG", quality=90),
    "jpeg 4:4:4": lambda: encoded(photo(), "JPEG", quality=95, subsampling=0),
    "jpeg gray": lambda: encoded(photo(mode="L"), "JPEG"),
    "jpeg cmyk": lambda: encoded(photo(mode="CMYK"), "JPEG"),
    "jpeg progressive": lambda: encoded(photo(), "JPEG", progressive=True),
    "jpeg with exif orientation": lambda: encoded(photo(), "JPEG", exif=_exif()),
    "jpeg with much beside it": lambda: encoded(
        photo(), "JPEG", exif=_exif(), icc_profile=bytes(70_000), comment=b"a word " * 100, dpi=(72, 72)
    ),
    "mpo, as telephones write it": lambda: encoded(
        photo(), "MPO", save_all=True, append_images=[photo(seed=1)]
    ),
    "png": lambda: encoded(photo(), "PNG"),
    "png alpha": lambda: encoded(photo(mode="RGBA"), "PNG"),
    "png gray alpha": lambda: encoded(photo(mode="LA"), "PNG"),
    "png palette": lambda: encoded(photo(mode="P"), "PNG"),
    "png palette transparent": lambda: encoded(photo(mode="P"), "PNG", transparency=3),
    "png 1 bit": lambda: encoded(photo(mode="1"), "PNG"),
    "png 16 bit": lambda: encoded(photo(mode="I;16"), "PNG"),
    "png interlaced": _interlaced_png,
    "png with texts and a profile": lambda: encoded(
        photo(), "PNG", pnginfo=_text(), icc_profile=bytes(3000), exif=_exif(), dpi=(72, 72)
    ),
    "apng": lambda: _frames("PNG"),
    "gif": lambda: encoded(photo(), "GIF"),
    "gif with comments": lambda: encoded(photo(), "GIF", comment=b"a word " * 100, transparency=3),
    "gif animated": lambda: _frames("GIF"),
    "webp": lambda: encoded(photo(), "WEBP"),
    "webp lossless alpha": lambda: encoded(photo(mode="RGBA"), "WEBP", lossless=True),
    "webp with exif": lambda: encoded(photo(), "WEBP", exif=_exif(), icc_profile=bytes(3000)),
    "webp animated": lambda: _frames("WEBP"),
    "bmp": lambda: encoded(photo(), "BMP"),
    "bmp 32 bit": lambda: encoded(photo(mode="RGBA"), "BMP"),
    "bmp run-length": _run_length_bmp,
    "tiff": lambda: encoded(photo(), "TIFF"),
    "tiff lzw": lambda: encoded(photo(), "TIFF", compression="tiff_lzw"),
    "tiff cmyk": lambda: encoded(photo(mode="CMYK"), "TIFF"),
    "tiff 16 bit": lambda: encoded(photo(mode="I;16"), "TIFF"),
    "tiff turned": lambda: encoded(photo(), "TIFF", exif=_exif()),
    "tiff with much beside it": lambda: encoded(
        photo(), "TIFF", tiffinfo={270: "words " * 1000}, icc_profile=bytes(3000), dpi=(72, 72)
    ),
    "tiff jpeg": lambda: encoded(photo(), "TIFF", compression="jpeg"),
    "tiff packbits": lambda: encoded(photo(), "TIFF", compression="packbits"),
    "tiff deflate with predictor": lambda: encoded(
        photo(), "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}
    ),
    "tiff group 4": lambda: encoded(photo(mode="1"), "TIFF", compression="group4"),
    "tiff palette": lambda: encoded(photo(mode="P"), "TIFF"),
    "tiff alpha": lambda: encoded(photo(mode="RGBA"), "TIFF"),
    "tiff floats": lambda: encoded(photo(mode="F"), "TIFF"),
    "tiff lab": lambda: encoded(photo(mode="LAB"), "TIFF"),
    "tiff ycbcr": lambda: encoded(photo(mode="YCbCr"), "TIFF", compression="jpeg"),
    "tiff of strips": lambda: encoded(photo(), "TIFF", compression="tiff_lzw", strip_size=1024),
    "tiff tiled": _tiled_tiff,
    "tiff of pages": lambda: _frames("TIFF"),
    "bigtiff": lambda: encoded(photo(), "TIFF", big_tiff=True, compression="tiff_lzw"),
    "tiff of the other order": lambda: encoded(photo(mode="I;16").convert("I;16B"), "TIFF"),
    "avif alpha": lambda: encoded(photo(mode="RGBA"), "AVIF"),
    "avif with exif": lambda: encoded(photo(), "AVIF", exif=_exif(), xmp=b"<x/>", icc_profile=None),
    "avif animated": lambda: _frames("AVIF"),
    "avif": lambda: encoded(photo(), "AVIF"),
    "1x1": lambda: encoded(photo(1, 1), "PNG"),
    "1 x 1,000": lambda: encoded(photo(1, 1000), "PNG"),
    "1,000 x 1": lambda: encoded(photo(1000, 1), "PNG"),
    "already of the size": lambda: encoded(photo(32, 32), "PNG"),
    "smaller than the size": lambda: encoded(photo(7, 5), "PNG"),
    "odd": lambda: encoded(photo(333, 251), "JPEG"),
    "tall": lambda: encoded(photo(61, 607), "JPEG"),
}
"""Functions that make the bytes, by what they test."""
