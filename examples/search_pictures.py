"""Searches a folder of pictures by text.

    scripts/serve                                                             # in another terminal
    .venv/bin/python -m examples.search_pictures ~/Pictures "a cat" "a rocket at night" --sheet found.png

The first run loads the model, whose weights come from the Hugging Face Hub.
"""

import argparse
import base64
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
AT_ONCE_BYTES = 16 << 20
"""Most bytes of pictures in one request, unless a single picture is larger."""

RANDOM = "Random weights: the order means nothing. This shows that the parts work together, no more."

Vectors = NDArray[np.float32]
Found = list[tuple[float, Path]]


class Searcher:
    """Client that gets unit-length vectors of texts and pictures; their dot product is the cosine."""

    def __init__(self, url: str, model: dict[str, str]) -> None:
        self._http = httpx.Client(base_url=url, timeout=3600)
        self._model = model
        self._post("/load_clip_model", model)

    def texts(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, float32 [n, D]."""
        answer = self._post("/infer_text", {**self._model, "text": list(texts), "normalize": True})
        return np.array(answer["embedding"], np.float32)

    def pictures(self, paths: Sequence[Path]) -> Vectors:
        """Return the vectors of pictures, float32 [n, D]; each request carries several."""
        vectors: list[list[float]] = []
        for group in groups(paths):
            images = [base64.b64encode(path.read_bytes()).decode("ascii") for path in group]
            body = {**self._model, "image": images, "normalize": True}
            vectors += self._post("/infer_image", body)["embedding"]
            print(f"\r{len(vectors)} of {len(paths)} pictures", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return np.array(vectors, np.float32)

    def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(route, json=body)
        found: dict[str, Any] = answer.json()
        if answer.status_code != 200:
            raise SystemExit(f"{route} answers {answer.status_code}: {found['detail']}")
        return found


def groups(paths: Sequence[Path]) -> list[list[Path]]:
    """Split paths into groups, in order, each with as many files as AT_ONCE_BYTES allows."""
    made: list[list[Path]] = []
    room = 0
    for path in paths:
        size = path.stat().st_size
        if size > room or not made:
            made.append([])
            room = AT_ONCE_BYTES
        made[-1].append(path)
        room -= size
    return made


def search(searcher: Searcher, paths: Sequence[Path], queries: Sequence[str], top: int) -> dict[str, Found]:
    """Return the `top` nearest pictures for each query, nearest first, with their cosines."""
    cosines = searcher.texts(queries) @ searcher.pictures(paths).T
    return {
        query: [(float(row[index]), paths[index]) for index in np.argsort(-row)[:top]]
        for query, row in zip(queries, cosines, strict=True)
    }


CELL, GAP, LEFT, CAPTION, HEAD = 190, 14, 230, 24, 64
INK, SOFT, ALARM = "#222222", "#70757d", "#b3261e"


def sheet(found: dict[str, Found], title: str, note: str) -> Image.Image:
    """Draw a row of found pictures for each query; `note` is in red below the title."""
    across = max(len(row) for row in found.values())
    width = LEFT + across * (CELL + GAP) + GAP
    image = Image.new("RGB", (width, HEAD + len(found) * (CELL + CAPTION + GAP)), "white")
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(20), ImageFont.load_default(13)
    draw.text((GAP, 12), title, INK, small)
    draw.text((GAP, 34), note, ALARM, ImageFont.load_default(15))
    for line, (query, row) in enumerate(found.items()):
        top = HEAD + line * (CELL + CAPTION + GAP)
        draw.multiline_text((GAP, top + 8), "\n".join(textwrap.wrap(query, 20)), INK, large)
        for place, (cosine, path) in enumerate(row):
            left = LEFT + place * (CELL + GAP)
            with Image.open(path) as picture:
                image.paste(ImageOps.fit(picture.convert("RGB"), (CELL, CELL)), (left, top))
            draw.text((left, top + CELL + 3), f"{cosine:.3f}  {path.stem[:20]}", SOFT, small)
    return image


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("query", nargs="+")
    parser.add_argument("--url", default="http://127.0.0.1:8686")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pretrained", default="laion2b_s34b_b79k", help="empty for a model of hf-hub:")
    parser.add_argument("--top", type=int, default=5, help="pictures for each query")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw what was found: a .png or .jpg")
    parser.add_argument(
        "--random-weights", action="store_true", help="say that the order means nothing (random_weights.py)"
    )
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"{options.folder} holds no pictures")
    model = {"model_name": options.model, "pretrained": options.pretrained}
    found = search(Searcher(options.url, model), paths, options.query, options.top)
    note = RANDOM if options.random_weights else ""
    print(note, end="\n" * bool(note))
    for query, row in found.items():
        print(
            query, *(f"  {cosine:.3f}  {path.relative_to(options.folder)}" for cosine, path in row), sep="\n"
        )
    if options.sheet:
        name = " ".join(part for part in model.values() if part)
        sheet(found, f"{len(paths)} pictures, {name}", note).save(options.sheet, quality=90)


if __name__ == "__main__":
    main()
