"""Checks an AVIF like the checks of `headers.py`: the sizes and the number of its coded frames.

Sources: ISO/IEC 14496-12 (boxes), 23008-12 (items), and the AV1 bitstream specification, 5.3 to 5.5 (OBUs).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from gateway.images.headers import Checked, ImageTooLarge, damaged, too_many_pieces, too_many_pixels

_MOST_ITEMS = 1_000
_MOST_BOXES = 10_000
_MOST_OBUS = 1_000

_SEQUENCE_HEADER = 1
_FRAMES = (3, 6)


def avif(data: bytes, max_pixels: int) -> Checked:
    """Check an AVIF: bound the sizes and frames in the coded data, whatever the container claims.

    Of an animation only the still image is kept, because the animation's tables may have any length. EXIF is
    dropped, because Pillow parses it in Python.
    """
    walk = _Boxes(data)
    renamed: dict[int, bytes] = {}
    try:
        boxes = list(walk.inside(0, len(data)))
        coded = sum(_coded(walk, box, max_pixels, renamed) for box in boxes if box.kind == b"meta")
        for box in boxes:
            if box.kind == b"moov":
                renamed[box.start - box.head + 4] = b"free"
            if box.kind == b"ftyp":
                brands = range(box.start, box.end, 4)
                renamed |= {at: b"avif" for at in brands if data[at : at + 4] == b"avis"}
    except (struct.error, LookupError) as error:
        raise damaged() from error
    if coded > 3 * max_pixels:
        # The colours and the alpha channel have up to max_pixels each; smaller items may come with them.
        raise ImageTooLarge(f"{coded} coded pixels, more than three times the {max_pixels} that are taken")
    if renamed:
        changed = bytearray(data)
        for at, kind in renamed.items():
            changed[at : at + 4] = kind
        data = bytes(changed)
    return Checked(data, extra=4 * coded)


class _Box(NamedTuple):
    """A box of ISO/IEC 14496-12.

    Attributes:
        kind: Its four-character type.
        start: Where its content begins.
        end: Where its content ends.
        head: Bytes of its header, before the content.
    """

    kind: bytes
    start: int
    end: int
    head: int


class _Boxes:
    """Walks over boxes of ISO/IEC 14496-12, at most _MOST_BOXES in all."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = _MOST_BOXES

    def inside(self, start: int, end: int) -> Iterator[_Box]:
        while start + 8 <= end:
            self._left -= 1
            if self._left < 0:
                raise too_many_pieces("more boxes", _MOST_BOXES)
            size, kind = struct.unpack_from(">I4s", self.data, start)
            head = 8
            if size == 1:
                size, head = struct.unpack_from(">Q", self.data, start + 8)[0], 16
            stop = end if size == 0 else start + size
            if size and size < head:
                raise damaged()
            # A box that is longer than its parent is read up to the parent's end.
            yield _Box(kind, start + head, min(stop, end), head)
            start = stop


def _coded(walk: _Boxes, meta: _Box, max_pixels: int, renamed: dict[int, bytes]) -> int:
    """Return the number of pixels that decoding all frames of a `meta` box's items gives.

    The place of each item type that the decoder must not find is added to `renamed`, with a new type.
    """
    kinds: dict[int, bytes] = {}
    items: list[_Item] = []
    idat = meta.end
    for box in walk.inside(meta.start + 4, meta.end):
        if box.kind == b"iinf":
            for number, kind, at in _kinds(walk, box):
                kinds[number] = kind
                if kind == b"Exif":
                    renamed[at] = b"none"
        elif box.kind == b"iloc":
            items += _locations(walk.data, box)
        elif box.kind == b"idat":
            idat = box.start
    coded, left = 0, 2 * len(walk.data)
    for item in items:
        kind = kinds.get(item.number, b"")
        if kind not in (b"av01", b"grid"):
            continue
        left -= sum(length for _, length in item.extents)
        if left < 0:
            raise damaged()
        base = idat if item.method == 1 else 0
        content = b"".join(
            walk.data[base + at : base + at + length if length else None] for at, length in item.extents
        )
        coded += _grid(content, max_pixels) if kind == b"grid" else _frames(content, max_pixels)
    return coded


def _kinds(walk: _Boxes, box: _Box) -> Iterator[tuple[int, bytes, int]]:
    """Read an `iinf` box: yield each item's number, its type, and the place of that type in the file."""
    start = box.start + (6 if walk.data[box.start] == 0 else 8)
    for entry in walk.inside(start, box.end):
        wide = walk.data[entry.start] >= 3
        number, kind = struct.unpack_from(">I2x4s" if wide else ">H2x4s", walk.data, entry.start + 4)
        yield number, kind, entry.start + (10 if wide else 8)


class _Item(NamedTuple):
    """An item of an `iloc` box.

    Attributes:
        number: The item's ID.
        method: Construction method; 1 if the content is in `idat`.
        extents: Offset and length of each extent.
    """

    number: int
    method: int
    extents: list[tuple[int, int]]


def _locations(data: bytes, box: _Box) -> list[_Item]:
    """Read the items of an `iloc` box."""
    version = data[box.start]
    sizes = int.from_bytes(data[box.start + 4 : box.start + 6], "big")
    at, length, base, index = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15, sizes & 15
    wide = 4 if version == 2 else 2
    position = box.start + 6

    def number(size: int) -> int:
        nonlocal position
        position += size
        if position > box.end:
            raise damaged()
        return int.from_bytes(data[position - size : position], "big")

    items = []
    if (count := number(wide)) > _MOST_ITEMS:
        raise too_many_pieces(f"{count} items", _MOST_ITEMS)
    extents_left = _MOST_BOXES
    for _ in range(count):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        start = number(base)
        extents = number(2)
        extents_left -= extents
        if extents_left < 0:
            raise too_many_pieces("more extents", _MOST_BOXES)
        places = []
        for _ in range(extents):
            number(index if version else 0)
            offset = start + number(at)
            places.append((offset, number(length)))
        items.append(_Item(item, method, places))
    return items


def _grid(content: bytes, max_pixels: int) -> int:
    """Return the number of pixels of the picture that a grid's cells make."""
    width, height = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
    if width * height > max_pixels:
        raise too_many_pixels(width, height, max_pixels)
    return int(width * height)


def _frames(content: bytes, max_pixels: int) -> int:
    """Return the number of pixels of all frames in an item's OBUs, shown or not."""
    position, pixels, coded = 0, 0, 0
    for _ in range(_MOST_OBUS):
        if position >= len(content):
            return coded
        head = content[position]
        position += 1 + (head >> 2 & 1)
        size = len(content) - position
        if head & 2:
            size = 0
            for place in range(8):
                byte = content[position]
                position += 1
                size |= (byte & 0x7F) << 7 * place
                if byte < 0x80:
                    break
        kind = head >> 3 & 15
        if kind == _SEQUENCE_HEADER:
            width, height = _size(content[position : position + min(size, 1024)])
            pixels = width * height
            if pixels > max_pixels:
                raise too_many_pixels(width, height, max_pixels)
        elif kind in _FRAMES:
            coded += pixels
        position += size
    raise too_many_pieces("more pieces of coded data", _MOST_OBUS)


def _size(header: bytes) -> tuple[int, int]:
    """Return the largest width and height of a sequence's frames, from its header (AV1, 5.5.1)."""
    bits = _Bits(header)
    bits.read(3)
    bits.read(1)
    if bits.read(1):
        # The reduced header of a still picture.
        bits.read(5)
    else:
        model = delay = 0
        if bits.read(1):
            bits.read(64)
            if bits.read(1):
                bits.exponential()
            if model := bits.read(1):
                delay = bits.read(5) + 1
                bits.read(42)
        display = bits.read(1)
        for _ in range(bits.read(5) + 1):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if model and bits.read(1):
                bits.read(2 * delay + 1)
            if display and bits.read(1):
                bits.read(4)
    width, height = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width) + 1, bits.read(height) + 1


class _Bits:
    """Reads numbers of any bit width, most significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise damaged()
        return self._bits >> self._left & ((1 << count) - 1)

    def exponential(self) -> None:
        """Skip a number of variable length (4.10.3)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        self.read(min(zeros, 32))
