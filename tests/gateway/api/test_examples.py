"""The examples, run as users run them."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageColor

from examples.search_pictures import ALARM, HEAD, RANDOM, groups
from tests.conftest import ROOT, Server
from tests.support.converted_models import CLIP
from tests.support.pictures import encoded, huge_png, photo

QUERIES = ("a cat", "two dogs running under a bridge")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of some formats, one below another directory, and what is none."""
    (tmp_path / "below").mkdir()
    for number, name in enumerate(["a.JPG", "b.png", "c.webp", "below/d.gif", "e.tiff"]):
        image_format = {"jpg": "jpeg"}.get(name[2:].rpartition(".")[2].lower(), name.rpartition(".")[2])
        (tmp_path / name).write_bytes(encoded(photo(60 + 9 * number, 50, seed=number), image_format))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def search(server: Server, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    model = ("--url", server.url, "--model", CLIP, "--pretrained", "")
    command = [sys.executable, "-m", "examples.search_pictures", str(folder), *QUERIES, *model, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_nearest_pictures_come_first(clip_server: Server, api: httpx.Client, folder: Path) -> None:
    done = search(clip_server, folder, "--top", "3", "--sheet", str(folder / "found.png"))
    assert done.returncode == 0, done.stderr
    assert RANDOM not in done.stdout
    names = ["a.JPG", "b.png", "below/d.gif", "c.webp", "e.tiff"]
    texts = [api.post("/infer", json={"model_name": CLIP, "text": query}).json() for query in QUERIES]
    text = np.array([answer["text_embeddings"][0] for answer in texts])
    vectors = []
    for name in names:
        image = uri((folder / name).read_bytes())
        answer = api.post("/infer_image", json={"model_name": CLIP, "image": image})
        vectors.append(answer.json()["embedding"][0])
    seen = np.array(vectors)
    cosines = (text @ seen.T) / np.linalg.norm(text, axis=1)[:, None] / np.linalg.norm(seen, axis=1)
    lines = done.stdout.splitlines()
    assert [lines[0], lines[4]] == list(QUERIES)
    for start, row in zip((1, 5), cosines, strict=True):
        found = [re.fullmatch(r"  (-?\d\.\d{3})  (.+)", line) for line in lines[start : start + 3]]
        assert [match and match[2] for match in found] == [names[index] for index in np.argsort(-row)[:3]]
        for match, cosine in zip(found, sorted(row, reverse=True), strict=False):
            assert match
            assert float(match[1]) == pytest.approx(cosine, abs=1e-3)


def uri(content: bytes) -> str:
    return f"data:;base64,{base64.b64encode(content).decode()}"


def test_random_weights_are_said_in_the_picture_itself(clip_server: Server, folder: Path) -> None:
    def alarming(*options: str) -> int:
        picture = folder.parent / "sheet.png"
        done = search(clip_server, folder, "--sheet", str(picture), *options)
        assert done.returncode == 0, done.stderr
        assert (RANDOM in done.stdout) == bool(options)
        with Image.open(picture) as image:
            assert image.width > 1000
            head = np.asarray(image.convert("RGB").crop((0, 0, image.width, HEAD)))
        return int((head == ImageColor.getrgb(ALARM)).all(axis=-1).sum())

    assert alarming("--random-weights") > 500
    assert alarming() == 0


def test_what_cannot_be_done_is_one_line(clip_server: Server, tmp_path: Path) -> None:
    done = search(clip_server, tmp_path)
    assert done.returncode == 2
    assert "holds no pictures" in done.stderr
    (tmp_path / "bad.png").write_bytes(huge_png(50_000, 50_000))
    done = search(clip_server, tmp_path)
    assert done.returncode == 1
    assert "/infer_image answers 413: image.0: " in done.stderr
    assert "Traceback" not in done.stderr


def test_large_pictures_go_a_few_at_a_time(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, megabytes in zip(paths, (1, 7, 9, 40, 2), strict=True):
        with path.open("wb") as file:
            file.truncate(megabytes << 20)
    assert groups(paths) == [paths[:2], paths[2:3], paths[3:4], paths[4:]]


@pytest.mark.slow
def test_random_weights_are_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "new" / "RN50.pt"
    command = [sys.executable, "-m", "examples.random_weights", str(path), "--model", "RN50"]
    subprocess.run(command, cwd=ROOT, timeout=240, check=True)
    import open_clip

    assert open_clip.create_model("RN50", pretrained=str(path)) is not None
