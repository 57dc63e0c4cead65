"""`benchmark.py` sending images, against the same small HTTP server."""

import base64
import hashlib
import io
import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.loadtest.images import BuiltInImages, data_uri
from tests.benchmarks.test_benchmark import ORIGINAL_LINES, SMALL, benchmark, server
from tests.support.fake_embedding_server import Played

__all__ = ["server"]

CLIP = ("--model", "ViT-B-32", "--pretrained", "tag")


def pixels_at_the_model(uri: str) -> bytes:
    """As a server sees the picture after its resizing, which is what a response cache compares."""
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
        return image.convert("RGB").resize((298, 224), Image.Resampling.BICUBIC).tobytes()


def test_images_are_all_different_in_all_processes(server: Played) -> None:
    server.loaded = False
    done = benchmark(
        server.url, *SMALL, *CLIP, "--input", "image", "--images-per-request", "3", "--processes", "2"
    )
    assert done.returncode == 0, done.stderr
    assert server.loads == [{"model_name": "ViT-B-32", "pretrained": "tag"}]
    assert all(set(body) == {"model_name", "pretrained", "image"} for body in server.bodies)
    sent = server.inputs("image")
    assert len(sent) == 3 * (1 + 20)
    assert len({hashlib.sha256(pixels_at_the_model(uri)).digest() for uri in sent}) == len(sent)
    sizes = sorted(map(len, sent))
    assert sizes[-1] > 5 * sizes[0]
    printed = done.stdout.splitlines()
    for line, expected in zip(printed, ORIGINAL_LINES, strict=False):
        assert line.startswith(expected)
    assert any(line.startswith("Images per second: ") for line in printed)
    assert "Mean batch size: 3.00 (60 images in 20 runs)" in printed
    assert "Texts per second" not in done.stdout
    figures = json.loads(printed[-1])["figures"]
    assert figures["images_per_second"] == pytest.approx(3 * figures["qps"])


def test_texts_and_images_in_one_request(server: Played, tmp_path: Path) -> None:
    picture = tmp_path / "both.png"
    done = benchmark(server.url, *SMALL, *CLIP, "--input", "both", "--distinct", "2", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    assert len(set(server.inputs("text")[1:])) == len(set(server.inputs("image")[1:])) == 2
    assert "Mean batch size: 3.00 (120 texts and images in 40 runs)" in done.stdout
    assert picture.exists()


def test_images_of_a_directory_go_as_they_are(server: Played, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    kinds = {"a.png": "PNG", "below/b.JPG": "JPEG"}
    for number, (name, kind) in enumerate(kinds.items()):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / name, kind)
    options = ["--route", "/infer_image", "--input", "image", "--image-dir", str(tmp_path)]
    done = benchmark(server.url, *SMALL, *CLIP, *options)
    assert done.returncode == 0, done.stderr
    sent = set(server.inputs("image")[1:])
    types = {"a.png": "png", "below/b.JPG": "jpeg"}
    assert sent == {
        f"data:image/{types[name]};base64,{base64.b64encode((tmp_path / name).read_bytes()).decode()}"
        for name in kinds
    }
    assert "20 images were drawn from a directory of 2" in done.stderr


def test_an_answer_without_all_vectors_is_refused(server: Played) -> None:
    server.forgets_images = True
    done = benchmark(server.url, *SMALL, *CLIP, "--input", "both")
    assert done.returncode == 1
    assert "does not hold one finite vector per input" in done.stderr


def test_many_built_in_images_differ() -> None:
    made = BuiltInImages(seed=5)
    serials = [*range(100), *range(10**6, 10**6 + 20)]
    seen = {pixels_at_the_model(data_uri(made.image(serial))) for serial in serials}
    assert len(seen) == len(serials)
