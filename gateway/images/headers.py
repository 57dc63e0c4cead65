"""What an image's bytes would make a decoder do, read from its structure before anything is decoded.

Each check walks over a bounded number of pieces, whatever the size, and returns the bytes that the decoder is
shown: without metadata, which no model sees and which Pillow parses in Python.
`image_tiff` and `image_avif` check theirs.
"""

import re
import struct
from typing import NamedTuple

MOST_PIECES = 20_000
"""Chunks, segments or blocks of one file: some milliseconds of walking."""

_MOST_SEGMENTS = 1_000
"""Pieces before the pixels, which Pillow walks over in Python."""

_MOST_SCANS = 100
_SCANS_OF_LARGEST = 12
"""Scans of a JPEG, each of which walks over the whole image: the more, the fewer its pixels."""

_RLE_PIXELS = 1 << 18
"""Pixels of a run-length coded BMP, which Pillow decodes in Python: a tenth of a second."""

_JPEG_MARKER = re.compile(rb"[^\xff]{0,4096}+\xff{1,4096}+([^\x00])", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_TAKEN = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_PROGRESSIVE = 0xC2
_JPEG_SCAN = 0xDA
_JPEG_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
"""All application segments but JFIF's and Adobe's, which say what the colours mean; and comments."""

_PNG_KEPT = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256, b"IDAT": 0, b"IEND": 0}
"""Chunks that make the pixels, with the most bytes that have a meaning; 0 for any number."""


class ImageError(ValueError):
    """This image cannot be used; the text says why, without naming the image."""


class ImageTooLarge(ImageError):
    """Its bytes or its pixels are over a limit."""


class Checked(NamedTuple):
    """An image that costs what its size says.

    data: what the decoder is shown. extra: bytes that decoding holds besides what mode and size tell.
    """

    data: bytes
    extra: int = 0


class Frame(NamedTuple):
    """A JPEG's frame. scan: where the first scan's marker is. passes: whether there may be several scans."""

    width: int
    height: int
    components: int
    scan: int
    passes: bool


def damaged() -> ImageError:
    """The error of an image that makes no sense."""
    return ImageError("damaged, cut short, or of a kind that cannot be decoded")


def too_many_pieces(what: str, most: int) -> ImageError:
    """The error of an image in more pieces than it can need."""
    return ImageError(f"{what}, more than the {most} that are taken; save the image anew")


def jpeg(data: bytes, max_pixels: int) -> Checked:
    """Count the scans, and drop the metadata."""
    kept: list[tuple[int, int]] = [(0, 2)]
    frame = jpeg_frame(data, 0, kept)
    pixels = max(1, frame.width * frame.height)
    extra = 0
    if frame.passes:
        # In coded data an FF is followed by 00, so these two bytes are a scan's marker.
        scans = data.count(b"\xff\xda", frame.scan)
        most = min(_MOST_SCANS, _SCANS_OF_LARGEST * max_pixels // pixels)
        if scans > most:
            raise too_many_pieces(f"{scans} scans of {frame.width}x{frame.height} pixels", most)
        # All coefficients, of 16 bits, are collected: up to four components.
        extra = 8 * pixels
    kept.append((frame.scan, len(data)))
    return Checked(joined(data, kept), extra)


def jpeg_frame(data: bytes, start: int, kept: list[tuple[int, int]] | None = None) -> Frame:
    """What the segments of the JPEG at `start` say, up to its first scan.

    kept: gets the segments that are no metadata, as places in `data`.

    Raises:
        ImageError: no JPEG, or of a kind that is not taken.
    """
    frame: tuple[int, int, int, bool] | None = None
    position = start + 2
    for _ in range(_MOST_SEGMENTS):
        marker = _JPEG_MARKER.match(data, position)
        if marker is None:
            raise damaged()
        code, after = marker[1][0], marker.end()
        if 0xD0 <= code <= 0xD7:
            position = after
            continue
        segment = data[after : after + 8]
        if len(segment) < 8 or code in (0x01, 0xD8, 0xD9):
            raise damaged()
        if code == _JPEG_SCAN and frame is not None:
            return Frame(*frame[:3], scan=marker.start(), passes=frame[3] or segment[2] < frame[2])
        if code == _JPEG_SCAN or (code in _JPEG_FRAMES and frame is not None):
            raise damaged()
        if code in _JPEG_FRAMES:
            frame = _jpeg_frame(code, segment)
        position = after + int.from_bytes(segment[:2], "big")
        if kept is not None and code not in _JPEG_METADATA:
            kept.append((marker.start(), position))
    raise too_many_pieces("more segments", _MOST_SEGMENTS)


def _jpeg_frame(code: int, segment: bytes) -> tuple[int, int, int, bool]:
    """Width, height, components, and whether it is progressive."""
    if code not in _JPEG_TAKEN:
        raise ImageError("a JPEG with lossless, hierarchical or arithmetic coding, which is not taken")
    _, _, height, width, components = struct.unpack(">HBHHB", segment)
    return width, height, components, code == _JPEG_PROGRESSIVE


def png(data: bytes, max_pixels: int) -> Checked:  # noqa: ARG001 - a check like the others
    """Keep the chunks that make the pixels: no texts or profiles to unpack, no frames of an animation."""
    kept: list[tuple[int, int]] = [(0, 8)]
    seen: set[bytes] = set()
    position = 8
    for _ in range(MOST_PIECES):
        head = data[position : position + 8]
        if len(head) < 8:
            return Checked(joined(data, kept))
        length, kind = struct.unpack(">I4s", head)
        end = position + 12 + length
        most = _PNG_KEPT.get(kind)
        if most is not None:
            if most and (kind in seen or length > most):
                raise damaged()
            seen.add(kind)
            kept.append((position, end))
        if kind == b"IEND":
            return Checked(joined(data, kept))
        position = end
    raise too_many_pieces("more chunks", MOST_PIECES)


def gif(data: bytes, max_pixels: int) -> Checked:  # noqa: ARG001 - a check like the others
    """Drop comments and applications' blocks before the first frame."""
    if len(data) < 13:
        raise damaged()
    position = 13 + ((6 << (data[10] & 7)) if data[10] & 0x80 else 0)
    kept: list[tuple[int, int]] = [(0, position)]
    blocks = 0
    for _ in range(_MOST_SEGMENTS):
        kind = data[position : position + 1]
        if kind == b",":
            kept.append((position, len(data)))
            return Checked(joined(data, kept))
        if kind in (b"", b";"):
            raise damaged()
        start = position
        position += 1
        if kind != b"!":
            # Pillow passes over what is no block; some writers leave a zero.
            continue
        position += 1
        while position < len(data) and data[position]:
            position += 1 + data[position]
            blocks += 1
            if blocks > MOST_PIECES:
                raise too_many_pieces("more blocks before the first frame", MOST_PIECES)
        position += 1
        if data[start + 1 : start + 2] == b"\xf9":
            kept.append((start, position))
    raise too_many_pieces("more blocks before the first frame", _MOST_SEGMENTS)


def bmp(data: bytes, max_pixels: int) -> Checked:  # noqa: ARG001 - a check like the others
    """Bound what is coded by run lengths."""
    if len(data) >= 34 and int.from_bytes(data[14:18], "little") != 12:
        width, height, compression = *struct.unpack_from("<ii", data, 18), data[30]
        pixels = abs(width * height)
        # The second: codes that make no pixel.
        if compression in (1, 2) and (pixels > _RLE_PIXELS or len(data) > 2 * pixels + 4096):
            raise ImageTooLarge(
                f"a run-length coded BMP of {abs(width)}x{abs(height)} pixels and {len(data)} bytes, "
                f"more than the {_RLE_PIXELS} pixels, of two bytes each, that are taken"
            )
    return Checked(data)


def webp(data: bytes, max_pixels: int) -> Checked:
    """Count the chunks, and read the canvas, which is allocated when the image is opened."""
    position, most = 12, len(data)
    for _ in range(MOST_PIECES):
        if position + 8 > most:
            break
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + size + size % 2
    else:
        raise too_many_pieces("more chunks", MOST_PIECES)
    if data[12:16] == b"VP8X" and most >= 30:
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if width * height > max_pixels:
            raise too_many_pixels(width, height, max_pixels)
    return Checked(data)


def too_many_pixels(width: int, height: int, max_pixels: int) -> ImageTooLarge:
    """The error of an image over MAX_IMAGE_PIXELS."""
    return ImageTooLarge(f"{width}x{height} pixels, more than the {max_pixels} that are taken")


def joined(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    """The parts of `data` that were kept; `data` itself, not a copy, where they are all of it."""
    runs: list[tuple[int, int]] = []
    for start, end in kept:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    if len(runs) == 1 and runs[0][1] >= len(data):
        return data
    return b"".join(data[start:end] for start, end in runs)
