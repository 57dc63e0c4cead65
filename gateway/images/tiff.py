"""Checks a TIFF like the checks of `headers.py`: its tags, strips, tiles and compression."""

import struct
from typing import NamedTuple

from gateway.images.headers import Checked, ImageError, damaged, jpeg_frame, too_many_pieces, too_many_pixels

_MOST_STRIPS = 16_384
_MOST_TAGS = 1_000

_COMPRESSIONS = {1: "none", 2: "CCITT", 3: "group 3", 4: "group 4", 5: "LZW", 7: "JPEG", 8: "deflate"}
_COMPRESSIONS |= {32773: "PackBits", 32946: "deflate"}

_WIDTH, _LENGTH, _BITS, _COMPRESSION = 256, 257, 258, 259
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 277, 278, 279
_PLANAR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES = 284, 322, 323, 324, 325
_STRIPS = frozenset({_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES})
_COLOR_MAP, _JPEG_TABLES, _XMP = 320, 347, 700

_OF_PIXELS = (_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _TILE_WIDTH)
# Photometric interpretation, fill order, orientation, CCITT's options, predictor, ink set, extra samples,
# sample format; YCbCr's coefficients, subsampling and positioning; black and white.
_OF_COLORS = (262, 266, 274, 292, 293, 317, 332, 338, 339, 529, 530, 531, 532)
_MOST_VALUES = dict.fromkeys((*_OF_PIXELS, _TILE_LENGTH, *_OF_COLORS), 16)
_MOST_VALUES |= dict.fromkeys(_STRIPS, _MOST_STRIPS)
_MOST_VALUES |= {_COLOR_MAP: 3 << 8, _JPEG_TABLES: 1 << 16, _XMP: 1 << 32}
"""Tags that are kept, with the most values of each: they define the pixels. XMP may hold the orientation."""

_TYPES = {1: "B", 2: "s", 3: "H", 4: "L", 5: "LL", 6: "b", 7: "s", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d"}
_TYPES |= {13: "L", 16: "Q"}
_BYTES = (1, 7)


class _Layout(NamedTuple):
    """Formats of `struct` for the numbers of a TIFF or BigTIFF."""

    order: str
    word: str
    number: str
    entry: str

    def read(self, form: str, data: bytes, position: int) -> int:
        return int(struct.unpack_from(self.order + form, data, position)[0])


def tiff(data: bytes, max_pixels: int) -> Checked:
    """Check a TIFF: bound strips, tags and scans; keep one directory, of the tags in _MOST_VALUES."""
    try:
        layout = _LAYOUTS.get(data[:4])
        if layout is None:
            raise damaged()
        kept, tags = _tags(data, layout)
        # A new directory at the end of the file, the only one; the header's offset points to it.
        place = struct.calcsize("=" + layout.word)
        directory = struct.pack(layout.order + layout.number, len(kept)) + b"".join(kept) + bytes(place)
        start = len(data) + len(data) % 2
        first = struct.pack(layout.order + layout.word, start)
        data = b"".join((data[:place], first, data[2 * place :], bytes(len(data) % 2), directory))
        _check_strips(data, layout, tags, max_pixels)
    except (struct.error, LookupError, OverflowError) as error:
        raise damaged() from error
    return Checked(data)


_LAYOUTS = {
    b"II*\0": _Layout("<", "L", "H", "HHL4s"),
    b"MM\0*": _Layout(">", "L", "H", "HHL4s"),
    b"II+\0": _Layout("<", "Q", "Q", "HHQ8s"),
}
"""Headers that Pillow and libtiff read in the same way."""

_Tag = tuple[int, int, int]
"""Type, number of values, and the position of the values."""


def _tags(data: bytes, layout: _Layout) -> tuple[list[bytes], dict[int, _Tag]]:
    """Return the directory entries to keep, and the tags that they hold."""
    size = struct.calcsize("=" + layout.word)
    start = layout.read(layout.word, data, size)
    number = layout.read(layout.number, data, start)
    if number > _MOST_TAGS:
        raise too_many_pieces(f"{number} tags", _MOST_TAGS)
    position = start + struct.calcsize("=" + layout.number)
    step = struct.calcsize("=" + layout.entry)
    kept: list[bytes] = []
    tags: dict[int, _Tag] = {}
    for _ in range(number):
        tag, kind, count, _ = struct.unpack_from(layout.order + layout.entry, data, position)
        most = _MOST_VALUES.get(tag)
        if most is not None and tag not in tags and kind in (_BYTES if tag == _XMP else _TYPES):
            if count > most:
                what = "strips or tiles" if tag in _STRIPS else f"values of tag {tag}"
                raise too_many_pieces(f"{count} {what}", most)
            inline = count * struct.calcsize("=" + _TYPES[kind]) <= size
            at = position + step - size
            tags[tag] = (kind, count, at if inline else layout.read(layout.word, data, at))
            kept.append(data[position : position + step])
        position += step
    return kept, tags


def _check_strips(data: bytes, layout: _Layout, tags: dict[int, _Tag], max_pixels: int) -> None:
    """Refuse more strips or tiles than the picture can have, and JPEG strips of several scans."""

    def values(tag: int, default: int = 0) -> tuple[int, ...]:
        kind, count, at = tags.get(tag, (0, 0, 0))
        if not count:
            return (default,)
        form = layout.order + _TYPES[kind][:1] * count
        return struct.unpack_from(form, data, at)

    width, length = values(_WIDTH)[0], values(_LENGTH)[0]
    compression = values(_COMPRESSION, 1)[0]
    if compression not in _COMPRESSIONS:
        names = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise ImageError(f"a TIFF of compression {compression}; those taken are {names}")
    if width < 1 or length < 1 or width * length > max_pixels:
        raise too_many_pixels(width, length, max_pixels) if width > 0 < length else damaged()
    planes = values(_SAMPLES, 1)[0] if values(_PLANAR, 1)[0] == 2 else 1
    tiled = _STRIP_OFFSETS not in tags
    across = values(_TILE_WIDTH)[0] if tiled else width
    down = values(_TILE_LENGTH)[0] if tiled else min(length, values(_ROWS_PER_STRIP, length)[0])
    if across < 1 or down < 1:
        raise damaged()
    offsets = values(_TILE_OFFSETS if tiled else _STRIP_OFFSETS)
    most = planes * -(-width // across) * -(-length // down)
    if len(offsets) > most:
        raise too_many_pieces(f"{len(offsets)} strips or tiles for {width}x{length} pixels", most)
    if compression == 7 and any(jpeg_frame(data, offset).passes for offset in set(offsets)):
        raise ImageError("a TIFF that holds a JPEG of several scans; one of a single scan is taken")
