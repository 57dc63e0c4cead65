"""Checks an image's structure before it is decoded, to bound what the decoder would do.

Each check walks over a bounded number of pieces, whatever the file's size, and returns the bytes for the
decoder. These have no metadata, which no model sees and which Pillow parses in Python. The checks of TIFF and
AVIF are in `tiff.py` and `avif.py`.
"""

import re
import struct
from typing import NamedTuple

MOST_PIECES = 20_000
"""Most chunks, segments or blocks in one file: some milliseconds of walking."""

_MOST_SEGMENTS = 1_000
"""Most pieces before the pixels, which Pillow walks over in Python."""

_MOST_SCANS = 100
_SCANS_OF_LARGEST = 12
"""Most scans of a JPEG of any size, and of the largest: each scan walks over the whole image."""

_RLE_PIXELS = 1 << 18
"""Most pixels of a run-length coded BMP, which Pillow decodes in Python: a tenth of a second."""

_JPEG_MARKER = re.compile(rb"[^\xff]{0,4096}+\xff{1,4096}+([^\x00])", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_TAKEN = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_PROGRESSIVE = 0xC2
_JPEG_SCAN = 0xDA
_JPEG_METADATA = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
"""Comments, and all application segments except JFIF's and Adobe's, which define the colours."""

_PNG_KEPT = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256, b"IDAT": 0, b"IEND": 0}
"""Chunks that define the pixels, with the largest meaningful size of each in bytes; 0 for any size."""


class ImageError(ValueError):
    """The image cannot be used; the message says why, without naming the image."""


class ImageTooLarge(ImageError):
    """The image has more bytes or pixels than the limit."""


class Checked(NamedTuple):
    """An image that has passed its check.

    Attributes:
        data: The bytes for the decoder.
        extra: Bytes of memory that decoding needs in addition to what mode and size imply.
    """

    data: bytes
    extra: int = 0


class Frame(NamedTuple):
    """The frame of a JPEG.

    Attributes:
        width: In pixels.
        height: In pixels.
        components: Number of colour components.
        scan: Position of the first scan's marker.
        passes: Whether there may be several scans.
    """

    width: int
    height: int
    components: int
    scan: int
    passes: bool


def damaged() -> ImageError:
    """Return the error for an image whose structure is invalid."""
    return ImageError("damaged, cut short, or of a kind that cannot be decoded")


def too_many_pieces(what: str, most: int) -> ImageError:
    """Return the error for an image of more pieces than it can need."""
    return ImageError(f"{what}, more than the {most} that are taken; save the image anew")


def jpeg(data: bytes, max_pixels: int) -> Checked:
    """Check a JPEG: bound its scans, and drop the metadata."""
    kept: list[tuple[int, int]] = [(0, 2)]
    frame = jpeg_frame(data, 0, kept)
    pixels = max(1, frame.width * frame.height)
    extra = 0
    if frame.passes:
        # In coded data an FF is followed by 00, so these two bytes are always a scan's marker.
        scans = data.count(b"\xff\xda", frame.scan)
        most = min(_MOST_SCANS, _SCANS_OF_LARGEST * max_pixels // pixels)
        if scans > most:
            raise too_many_pieces(f"{scans} scans of {frame.width}x{frame.height} pixels", most)
        # The decoder holds all coefficients: 16 bits each, in up to four components.
        extra = 8 * pixels
    kept.append((frame.scan, len(data)))
    return Checked(joined(data, kept), extra)


def jpeg_frame(data: bytes, start: int, kept: list[tuple[int, int]] | None = None) -> Frame:
    """Read the segments of a JPEG up to its first scan.

    Args:
        data: The file that contains the JPEG.
        start: Where the JPEG begins in `data`.
        kept: If given, the (start, end) of each segment that is not metadata is added to it.

    Raises:
        ImageError: It is not a JPEG, or of a kind that is not accepted.
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
    """Return width, height, components, and whether the JPEG is progressive."""
    if code not in _JPEG_TAKEN:
        raise ImageError("a JPEG with lossless, hierarchical or arithmetic coding, which is not taken")
    _, _, height, width, components = struct.unpack(">HBHHB", segment)
    return width, height, components, code == _JPEG_PROGRESSIVE


def png(data: bytes, max_pixels: int) -> Checked:  # noqa: ARG001 - a check like the others
    """Check a PNG: keep the chunks that define the pixels, and drop texts, profiles and animation frames."""
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
    """Check a GIF: drop comments and application blocks before the first frame."""
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
            # Pillow skips bytes that begin no block; some writers leave a zero.
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
    """Check a BMP: bound the size of one with run-length coding."""
    if len(data) >= 34 and int.from_bytes(data[14:18], "little") != 12:
        width, height, compression = *struct.unpack_from("<ii", data, 18), data[30]
        pixels = abs(width * height)
        # The second condition bounds codes that produce no pixel.
        if compression in (1, 2) and (pixels > _RLE_PIXELS or len(data) > 2 * pixels + 4096):
            raise ImageTooLarge(
                f"a run-length coded BMP of {abs(width)}x{abs(height)} pixels and {len(data)} bytes, "
                f"more than the {_RLE_PIXELS} pixels, of two bytes each, that are taken"
            )
    return Checked(data)


def webp(data: bytes, max_pixels: int) -> Checked:
    """Check a WebP: bound its chunks and its canvas, which is allocated when the image is opened."""
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
    """Return the error for an image over MAX_IMAGE_PIXELS."""
    return ImageTooLarge(f"{width}x{height} pixels, more than the {max_pixels} that are taken")


def joined(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    """Join the kept (start, end) parts of `data`; return `data` itself, uncopied, if all of it was kept."""
    runs: list[tuple[int, int]] = []
    for start, end in kept:
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    if len(runs) == 1 and runs[0][1] >= len(data):
        return data
    return b"".join(data[start:end] for start, end in runs)
