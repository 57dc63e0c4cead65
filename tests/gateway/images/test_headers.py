"""Images that cost more than their size says are refused undecoded; metadata is not even parsed."""

import io
import zlib

import pytest
from PIL import Image

from gateway.images.headers import ImageError, ImageTooLarge
from gateway.images.preprocessing import memory, open_image, preprocess
from tests.support.hostile_pictures import (
    HOSTILE,
    avif_as,
    avif_item,
    chunk,
    flat,
    many_frames,
    scans_jpeg,
    segment,
    tiff,
    with_blocks,
    with_chunks,
    with_segments,
)
from tests.support.pictures import PICTURES, encoded, photo
from triton_models.contract.manifest import ImagePreprocessing

# As in the front end, where Pillow's warnings stop nothing.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

PIXELS = 64_000_000
SPEC = ImagePreprocessing(32, 32, "shortest", "bicubic")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused_with_the_reason(name: str) -> None:
    reason, make = HOSTILE[name]
    with pytest.raises(ImageError, match=reason) as refused:
        open_image(make(), PIXELS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["refine", "first", "sequential"])
def test_scans_are_bounded_by_the_pixels(kind: str) -> None:
    """As many as encoders make of the largest image, and more of a small one."""
    open_image(scans_jpeg(400, 100, kind, 3), PIXELS)
    open_image(scans_jpeg(8000, 12, kind, 3), PIXELS)
    open_image(scans_jpeg(8000, 12, kind, 3), PIXELS * 2)
    for side, scans in ((400, 101), (8000, 13)):
        with pytest.raises(ImageError, match=f"{scans} scans"):
            open_image(scans_jpeg(side, scans, kind, 3), PIXELS)


def test_a_baseline_jpeg_of_several_scans_is_counted_with_its_coefficients() -> None:
    """The decoder collects them as for a progressive one."""
    assert memory(open_image(scans_jpeg(400, 3, "sequential", 3), PIXELS)) == 12 * 400 * 400


def test_an_avif_is_as_large_as_what_is_coded() -> None:
    lying = avif_as(flat(3000), 64, 64)
    with pytest.raises(ImageTooLarge, match="3000x3000 pixels"):
        open_image(lying, 8_000_000)
    # Where there is room for it, it counts.
    assert memory(open_image(lying, 10_000_000)) > 3000 * 3000 * 4


def test_frames_of_an_avif_that_are_never_shown_count() -> None:
    """A hundred frames of one picture; a third of them would still be too many."""
    assert Image.open(io.BytesIO(avif_item(flat(500), many_frames))).size == (500, 500)
    with pytest.raises(ImageTooLarge, match="25000000 coded pixels"):
        open_image(avif_item(flat(500), many_frames), 8_000_000)


TAGS = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x00\x10" + b"\x0f\x01\x04\0\x01\0\0\0\0\0\0\0" * 4096)
BOMB = zlib.compress(bytes(1 << 20))
METADATA = {
    "jpeg": with_segments(TAGS * 20 + segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000)),
    "png": with_chunks(
        chunk(b"iCCP", b"a\0\0" + BOMB)
        + b"".join(chunk(b"zTXt", b"key%d\0\0" % number + BOMB) for number in range(80))
        + chunk(b"eXIf", bytes(9))
    ),
    "gif": with_blocks(b"!\xfe" + b"\xff".join([b""] + [b"a" * 255] * 999) + b"\0"),
    "avif": encoded(photo(), "AVIF", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x0e\0\2\0\0\0\4abc\0\0\0\0\0"),
    "tiff": tiff({270: (2, 9000, 8), 34665: (4, 1, 8), 33550: (12, 1000, 8)}, bytes(9000)),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_is_not_parsed(name: str) -> None:
    """Pillow's readers would: 65,536 tags, 80 MB of texts, a list of any length."""
    image = open_image(METADATA[name], PIXELS)
    preprocess(image, SPEC)
    assert not set(image.info) & {"exif", "icc_profile", "comment", "photoshop", "key0"}
    if name == "tiff":
        assert set(image.tag_v2) < set(range(256, 280))  # type: ignore[attr-defined]


def test_what_needs_no_change_is_not_copied() -> None:
    shown: list[bytes] = []

    def file(content: bytes) -> io.BytesIO:
        shown.append(content)
        return io.BytesIO(content)

    for name in ("jpeg", "png", "gif", "webp", "bmp", "avif"):
        data = PICTURES[name]()
        open_image(data, PIXELS, file)
        assert shown.pop() is data


def test_an_edge_of_any_length_that_resizing_can_take() -> None:
    data = encoded(Image.new("L", (1 << 18, 1)), "PNG")
    assert preprocess(open_image(data, PIXELS), SPEC).shape == (32, 32, 3)
    squashed = ImagePreprocessing(32, 32, "squash", "bicubic")
    assert preprocess(open_image(data, PIXELS), squashed).shape == (32, 32, 3)


def test_a_tiff_is_turned_by_its_xmp_too() -> None:
    """As Pillow does while it decodes; open_clip, which asks for the size before, fails there."""
    data = encoded(photo(), "TIFF", tiffinfo={700: b'<x tiff:Orientation="6"/>'})
    turned = preprocess(open_image(PICTURES["tiff turned"](), PIXELS), SPEC)
    assert (preprocess(open_image(data, PIXELS), SPEC) == turned).all()
