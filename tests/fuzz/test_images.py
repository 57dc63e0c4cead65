"""Whatever bytes a caller calls an image: pixels of the model's size, or an error that says so."""

import base64
import functools
import io
import random
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from gateway.images import sources
from gateway.images.headers import ImageError, ImageTooLarge
from gateway.images.preprocessing import memory, open_image, preprocess
from tests.fuzz.mutations import mutated, one_line
from tests.support.pictures import PICTURES, encoded, huge_png, huge_tile_tiff, photo
from triton_models.contract.manifest import ImagePreprocessing

# As in the front end, where Pillow's warnings stop nothing.
pytestmark = pytest.mark.filterwarnings("ignore")

MOST_PIXELS = 1_000_000
MOST_BYTES = 1 << 20
SLACK = 24 << 20
"""Bytes beside the estimate: the model's own size, Pillow's tables, blocks that the allocator keeps."""

SPECS = (
    ImagePreprocessing(32, 32, "shortest", "bicubic"),
    ImagePreprocessing(48, 32, "shortest", "bilinear"),
    ImagePreprocessing(32, 48, "longest", "bilinear", 127),
    ImagePreprocessing(40, 40, "squash", "nearest"),
)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    small = (
        encoded(photo(mode="CMYK"), "JPEG", quality=30, progressive=True),
        encoded(photo(64, 64, mode="I;16"), "TIFF", compression="tiff_adobe_deflate"),
        encoded(photo(64, 64, mode="P"), "BMP"),
        encoded(photo(64, 64, mode="1"), "TIFF", compression="group4"),
        encoded(photo(64, 64), "TIFF", compression="jpeg"),
        encoded(photo(16, 16), "GIF", save_all=True, append_images=[photo(200, 200)], disposal=2),
        huge_png(50_000, 50_000),
        huge_png(1, 100_000),
        huge_tile_tiff(60_000),
    )
    return tuple(make() for make in PICTURES.values()) + small


def sized(rng: random.Random, content: bytes) -> bytes:
    """A PNG or a BMP whose header claims another size, with a right checksum."""
    width, height = (rng.choice((0, 1, 2, 90, 999, 1000, 1001, 65_535, 2**31 - 1)) for _ in range(2))
    if content.startswith(b"\x89PNG"):
        head = content[12:16] + struct.pack(">II", width, height) + content[24:29]
        return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
    if content.startswith(b"BM"):
        return content[:18] + struct.pack("<II", width, height) + content[26:]
    return content


def whole_chunks(rng: random.Random, content: bytes) -> bytes:
    """A PNG with its pieces in another order, missing or doubled, each whole."""
    if not content.startswith(b"\x89PNG"):
        return content
    chunks, place = [], 8
    while place + 8 <= len(content):
        end = place + 12 + struct.unpack_from(">I", content, place)[0]
        chunks.append(content[place:end])
        place = end
    kind = rng.randrange(3)
    if kind == 0:
        rng.shuffle(chunks)
    elif kind == 1:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    else:
        del chunks[rng.randrange(len(chunks))]
    return content[:8] + b"".join(chunks)


def made(rng: random.Random) -> bytes:
    content = rng.choice(pictures())
    for change in rng.sample((sized, whole_chunks), rng.randrange(3)):
        content = change(rng, content)
    if rng.random() < 0.1:
        content += rng.choice(pictures())
    return mutated(rng, content) if rng.random() < 0.85 else content


def peak(begin: bool = False) -> int:
    """Bytes of resident memory: now, as the highest from here on begins to count; later that highest."""
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@given(st.randoms(use_true_random=False), st.sampled_from(SPECS))
def test_damaged_images(rng: random.Random, spec: ImagePreprocessing) -> None:
    content = made(rng)
    before = peak(begin=True)
    promised = 0
    try:
        image = open_image(content, MOST_PIXELS)
        assert image.width * image.height <= MOST_PIXELS
        promised = memory(image)
        pixels = preprocess(image, spec)
    except ImageError as error:
        one_line(error)
    else:
        assert pixels.shape == (spec.height, spec.width, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
    assert peak() - before <= promised + SLACK


@given(st.sampled_from(sorted(PICTURES)), st.sampled_from(SPECS))
def test_whole_images_are_never_refused(name: str, spec: ImagePreprocessing) -> None:
    """What the other properties accept as an answer must not be all that there is."""
    assert preprocess(open_image(PICTURES[name](), MOST_PIXELS), spec).any()


def strings() -> st.SearchStrategy[str]:
    coded = st.binary(max_size=64).map(lambda data: base64.b64encode(data).decode())
    heads = st.sampled_from(
        (
            "",
            "data:,",
            "data:;base64,",
            "data:image/png;base64,",
            "DATA:;BASE64,",
            "data:",
            " http://",
            "ftp:",
        )
    )
    junk = st.text(max_size=20) | st.text("=-_+/%A0 \n,;:", max_size=20)
    return st.tuples(heads, st.lists(coded | junk, max_size=3)).map(
        lambda parts: parts[0] + "".join(parts[1])
    )


@given(strings(), st.sampled_from((1, 16, MOST_BYTES)))
@example("data:;base64,%", 16)
@example("data:,%ff%", 16)
@example("\ud800", 16)
@example("A\u00b2==", 16)
def test_strings_that_stand_for_images(text: str, most: int) -> None:
    try:
        if not sources.is_url(text):
            assert 0 < len(sources.decode(text, most)) <= most
    except ImageError as error:
        one_line(error)


@given(st.binary(min_size=1, max_size=3000), st.booleans(), st.booleans(), st.integers(0, 80))
def test_base64_comes_back(data: bytes, safe: bool, padded: bool, columns: int) -> None:
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    if columns:
        text = "\n".join(text[place : place + columns] for place in range(0, len(text), columns))
    assert sources.decode(text, MOST_BYTES) == data
    assert sources.decode(f"data:;base64,{text}", len(data)) == data
    if len(data) > 1:
        with pytest.raises(ImageTooLarge):
            sources.decode(text, len(data) - 1)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(("L", "RGB", "RGBA", "P", "1", "I;16")))
def test_any_shape_becomes_the_models(width: int, height: int, mode: str) -> None:
    written = io.BytesIO()
    Image.new(mode, (width, height)).save(written, "PNG")
    for spec in SPECS:
        try:
            image = open_image(written.getvalue(), MOST_PIXELS)
        except ImageTooLarge:
            assert width * height > MOST_PIXELS
            return
        assert preprocess(image, spec).shape == (spec.height, spec.width, 3)
