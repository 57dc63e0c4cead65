"""Pictures of every format that cost a decoder more than their size suggests; generated when needed."""

import itertools
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.support.pictures import encoded, huge_png, huge_tile_tiff, photo

MOST = 1 << 20
"""Size in bytes of most of these pictures; a few are short."""


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def scans_jpeg(side: int, scans: int, kind: str = "refine", components: int = 1) -> bytes:
    """Return a JPEG of few bytes whose scans each visit all blocks and change nothing.

    Args:
        side: Width and height in pixels.
        scans: Number of scans.
        kind: "refine" or "first" for a progressive JPEG, "sequential" for a baseline one with a component
            per scan.
        components: Number of colour components.
    """
    sequential = kind == "sequential"
    frame = struct.pack(">BHHB", 8, side, side, components)
    frame += b"".join(bytes([number + 1, 0x11, 0]) for number in range(components))
    tables = b"\x00" + bytes([1] + [0] * 15) + b"\0", b"\x10" + bytes([1] + [0] * 15) + b"\xe0"
    head = (
        b"\xff\xd8" + segment(0xDB, b"\0" + bytes([16] * 64)) + segment(0xC0 if sequential else 0xC2, frame)
    )
    head += b"".join(segment(0xC4, table) for table in tables)
    if sequential:
        each = (bytes([1, 1 + number % components, 0, 0, 63, 0]) for number in range(scans))
        return head + b"".join(segment(0xDA, scan) for scan in each) + b"\xff\xd9"
    every = b"".join(bytes([number + 1, 0]) for number in range(components))
    head += segment(0xDA, bytes([components]) + every + bytes(3))
    # Runs of empty blocks: one bit of code and fourteen of length, all ones but for the first.
    runs = ((side + 7) // 8) ** 2 // ((1 << 15) - 1) + 1
    bits = int("0" + ("1" * 14 + "0") * runs, 2) << (-(1 + 15 * runs) % 8)
    empty = bits.to_bytes((1 + 15 * runs + 7) // 8, "big").replace(b"\xff", b"\xff\0")
    first = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x01])) + empty
    later = segment(0xDA, bytes([1, 1, 0, 1, 63, 0x10 if kind == "refine" else 0x01])) + empty
    return head + first + later * (scans - 2) + b"\xff\xd9"


def with_segments(segments: bytes) -> bytes:
    """Return a small JPEG with extra bytes before its first segment."""
    return b"\xff\xd8" + segments + encoded(photo(), "JPEG")[2:]


def frame_jpeg(marker: int) -> bytes:
    """Return a small JPEG whose frame marker claims another kind."""
    return encoded(photo(), "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(chunks: bytes) -> bytes:
    """Return a small PNG with chunks before its pixels."""
    sound = encoded(photo(), "PNG")
    return sound[:33] + chunks + sound[33:]


def pieces_png(count: int) -> bytes:
    """Return a small PNG with `count` empty chunks before those of its pixels."""
    sound = encoded(photo(), "PNG")
    return sound[:33] + chunk(b"IDAT", b"") * count + sound[33:]


def with_blocks(blocks: bytes) -> bytes:
    """Return a small GIF with blocks before its first frame."""
    sound = encoded(photo(), "GIF")
    end = 13 + (6 << (sound[10] & 7))
    return sound[:end] + blocks + sound[end:]


def rle_bmp(width: int, height: int, data: bytes, bits: int = 8) -> bytes:
    colors = b"".join(bytes([i, 255 - i, i, 0]) for i in range(1 << bits))
    start = 54 + len(colors)
    kind = 2 if bits == 4 else 1
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, kind, len(data), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + colors + data


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", repeated: int = 1) -> bytes:
    """Return a TIFF of 8x8 gray pixels; `tags` has type, count and value by tag, `data` starts at byte 8."""
    base = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    whole = {number: (4, 1, value) for number, value in base.items()} | tags
    entries = b"".join(struct.pack("<HHII", number, *whole[number]) for number in sorted(whole)) * repeated
    data = data or bytes(64)
    data += bytes(len(data) % 2)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(entries) // 12)
        + entries
        + bytes(4)
    )


def webp_frames(count: int) -> bytes:
    """Return an animation of `count` frames of one pixel."""
    still = encoded(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = bytes(6) + bytes(6) + bytes(4) + still
    body = (
        b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02" + bytes(9) + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    )
    body += (b"ANMF" + struct.pack("<I", len(frame)) + frame) * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


def avif_as(data: bytes, width: int, height: int) -> bytes:
    """Return an AVIF whose container claims another size."""
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]


def avif_item(data: bytes, content: Callable[[bytes], bytes]) -> bytes:
    """Return an AVIF whose only item is replaced by the result of `content`, at the end of the file."""
    place = data.index(b"iloc") + 4 + 4 + 2
    count = struct.unpack_from(">H", data, place)[0]
    assert count == 1
    at = place + 2 + 2 + 2 + 2
    start, length = struct.unpack_from(">II", data, at)
    new = content(data[start : start + length])
    moved = data[:at] + struct.pack(">II", len(data) + 8, len(new)) + data[at + 8 :]
    return moved + struct.pack(">I", 8 + len(new)) + b"mdat" + new


def obus(content: bytes) -> list[bytes]:
    """Return the OBUs of a coded image, each below 2 MB."""
    parts, position = [], 0
    while position < len(content):
        sizes = list(itertools.takewhile(lambda byte: byte & 0x80, content[position + 1 : position + 5]))
        after = position + 2 + len(sizes)
        size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(content[position + 1 : after]))
        parts.append(content[position : after + size])
        position = after + size
    return parts


def many_frames(content: bytes) -> bytes:
    """Return a coded image whose last OBU is repeated a hundred times."""
    parts = obus(content)
    return b"".join(parts[:-1]) + parts[-1] * 100


def flat(side: int) -> bytes:
    """Return an AVIF of one colour: many pixels in few bytes."""
    return encoded(Image.new("RGB", (side, side), (5, 200, 60)), "AVIF", speed=10)


def _long_tag(number: int, count: int, kind: int = 4) -> bytes:
    return tiff({number: (kind, count, 8)}, bytes(4 * count))


def _noisy_progressive_tiff() -> bytes:
    strip = scans_jpeg(512, 90)
    tags = {256: (4, 1, 512), 257: (4, 1, 512), 259: (3, 1, 7), 278: (4, 1, 512), 279: (4, 1, len(strip))}
    return tiff(tags, strip)


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg, scans that refine": ("scans", lambda: scans_jpeg(8000, 2000)),
    "jpeg, scans that repeat": ("scans", lambda: scans_jpeg(8000, 2000, "first")),
    "jpeg, scans of a baseline": ("scans", lambda: scans_jpeg(8000, 20_000, "sequential", 3)),
    "jpeg, small with many scans": ("scans", lambda: scans_jpeg(400, 101)),
    "jpeg, junk": ("damaged", lambda: with_segments(segment(0xFE, b"") + bytes(MOST))),
    "jpeg, fill": ("damaged", lambda: with_segments(b"\xff" * MOST)),
    "jpeg, segments": ("segments", lambda: with_segments(segment(0xFE, b"") * (MOST // 4))),
    "jpeg, restarts": ("segments", lambda: with_segments(b"\xff\xd0" * (MOST // 2))),
    "jpeg, two frames": (
        "damaged",
        lambda: with_segments(segment(0xC0, bytes([8, 0, 9, 0, 9, 1, 1, 17, 0]))),
    ),
    "jpeg, arithmetic": ("arithmetic", lambda: frame_jpeg(0xC9)),
    "jpeg, lossless": ("lossless", lambda: frame_jpeg(0xC3)),
    "jpeg, hierarchical": ("hierarchical", lambda: frame_jpeg(0xC5)),
    "png, chunks": ("chunks", lambda: pieces_png(MOST // 12)),
    "png, palette": ("damaged", lambda: with_chunks(chunk(b"PLTE", bytes(MOST)))),
    "png, transparency": ("damaged", lambda: with_chunks(chunk(b"tRNS", bytes(MOST)))),
    "png, one line": ("edge", lambda: huge_png(60_000_000, 1)),
    "png, one column": ("edge", lambda: huge_png(1, 60_000_000)),
    "png, pixels": ("pixels", lambda: huge_png(50_000, 50_000)),
    "gif, blocks": ("blocks", lambda: with_blocks(b"!\xfe\x00" * (MOST // 3))),
    "gif, pieces of a block": ("blocks", lambda: with_blocks(b"!\xfe" + b"\x01a" * (MOST // 2) + b"\0")),
    "gif, nothing": ("blocks", lambda: with_blocks(bytes(MOST))),
    "gif, pixels": (
        "pixels",
        lambda: b"GIF89a" + b"\xff" * 4 + bytes(3) + b"," + bytes(4) + b"\xff" * 4 + b"\0\2\0",
    ),
    "bmp, runs of four bits": (
        "run-length",
        lambda: rle_bmp(8160, 500, (b"\xff\x12" * 32 + b"\0\0") * 500, 4),
    ),
    "bmp, ends of lines": ("run-length", lambda: rle_bmp(8, 8, bytes(MOST))),
    "bmp, moves": ("run-length", lambda: rle_bmp(8, 8, b"\0\2\0\0" * (MOST // 4))),
    "bmp, upside down": ("run-length", lambda: rle_bmp(8160, -500, b"\xff\x12" * 9, 4)),
    "tiff, strips": ("strips", lambda: tiff({273: (4, MOST, 8), 278: (4, 1, 1)}, bytes(4 * MOST))),
    "tiff, strips for a few rows": (
        "strips",
        lambda: tiff({273: (4, 9000, 8), 278: (4, 1, 4)}, bytes(36_000)),
    ),
    "tiff, tiles": (
        "tiles",
        lambda: tiff({273: (2, 1, 0), 324: (4, MOST, 8), 322: (4, 1, 16)}, bytes(4 * MOST)),
    ),
    "tiff, tags": ("tags", lambda: tiff({}, repeated=7000)),
    "tiff, bits": ("values", lambda: _long_tag(258, MOST)),
    "tiff, kinds of samples": ("values", lambda: _long_tag(339, MOST)),
    "tiff, colours": ("values", lambda: _long_tag(320, MOST)),
    "tiff, tables": ("values", lambda: _long_tag(347, MOST)),
    "tiff, scans": ("scans", _noisy_progressive_tiff),
    "tiff, lzma": ("compression", lambda: tiff({259: (3, 1, 34925)})),
    "tiff, zstandard": ("compression", lambda: tiff({259: (3, 1, 50000)})),
    "tiff, jpeg of old": ("compression", lambda: tiff({259: (3, 1, 6)})),
    "tiff, webp": ("compression", lambda: tiff({259: (3, 1, 50001)})),
    "tiff, pixels": ("pixels", lambda: tiff({256: (4, 1, 50_000), 257: (4, 1, 50_000)})),
    "tiff, a tile": ("pixels", lambda: huge_tile_tiff(60_000)),
    "webp, frames": ("chunks", lambda: webp_frames(MOST // 50)),
    "webp, chunks": ("chunks", lambda: encoded(photo(), "WEBP") + b"junk\0\0\0\0" * (MOST // 8)),
    "webp, canvas": ("pixels", lambda: b"RIFF\x12\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2),
    "avif, frames": ("coded", lambda: avif_item(flat(2000), many_frames)),
    "avif, obus": ("pieces", lambda: avif_item(flat(64), lambda content: b"\x12\0" * (MOST // 2) + content)),
    "avif, boxes": ("boxes", lambda: flat(64) + b"\0\0\0\x08free" * (MOST // 8)),
}
"""By name: a word of the refusal's reason, and a maker of the bytes. All are refused at 64 megapixels."""
