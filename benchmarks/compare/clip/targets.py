"""The loads of the CLIP comparison, and the figures that must hold."""

from collections.abc import Sequence

from benchmarks.compare.clip.contestants import INFINITY, OURS
from benchmarks.compare.targets import Comparison, Figure, Load, Round, Value, at_most, ours, rate

_IMAGES = "16 connections, one 640x480 JPEG"

LOADS = (
    Load("captions", "64 connections, one caption", "captions", 30_000, 64),
    Load("captions_bulk", "2 connections, 256 captions", "captions", 60_000, 2, 256),
    Load("images", _IMAGES, "images", 1500, 16),
    Load("image_latency", "1 connection, one 640x480 JPEG", "images", 1500, 1),
)
"""The loads. Captions have 5 to 20 words, images are data URIs, and all are unique."""


def _over_fixed(load: str) -> Figure:
    title = "over the fixed 77 tokens on ONNX Runtime in process"
    return Figure(load, title, 3, "x", lambda m: rate(m, "ours", load) / m["fixed77"]["texts"]["best"])


def _of_the_best(measures: Round) -> float:
    best = max(measures[of]["images"]["best"] for of in ("open_clip", "engine"))
    return rate(measures, "ours", "images") / float(best)


FIGURES = (
    _over_fixed("captions"),
    _over_fixed("captions_bulk"),
    Figure("images", "of the best rate in process, decoding included", 0.85, "", _of_the_best),
    at_most("images", "bytes to Triton an image", 150_528, "", ours("wire", "bytes")),
    at_most("stall", "the event loop's longest stall", 20, "ms", ours("stall", "longest_ms")),
    at_most("memory", "the front end above idle", 500, "MB", ours("memory", "above_idle_mb")),
)


def _in_process(rounds: Sequence[Round]) -> dict[str, Value]:
    shown: dict[str, Value] = {"engine that serves": lambda m: m["engine"]["images"]["chosen"]}
    images: dict[str, Value] = {"open_clip": lambda m: m["open_clip"]["images"]}
    for name in rounds[0].get("engine", {}).get("images", {}).get("engines", ()):
        images[name] = lambda m, of=name: m["engine"]["images"]["engines"][of]  # type: ignore[misc]
    for name, measured in images.items():
        for title, key in (("decoding included", "best"), ("decoded already", "tower alone")):
            shown[f"{name}, images, {title}"] = lambda m, of=measured, key=key: of(m)[key]  # type: ignore[misc]
    return {
        **shown,
        "open_clip, captions": lambda m: m["open_clip"]["captions"]["rate"],
        "fixed 77 tokens on ONNX Runtime, captions": lambda m: m["fixed77"]["texts"]["best"],
    }


CLIP = Comparison(
    file="benchmarks-clip",
    markers=(
        "<!-- CLIP results {cpu}: written by benchmarks/run clip -->",
        "<!-- end of CLIP results {cpu} -->",
    ),
    servers=(OURS, INFINITY),
    loads=LOADS,
    figures=FIGURES,
    titles={"stall": _IMAGES, "memory": "64 connections, one JPEG of 12 megapixels"},
    samples={"least cosine, captions": ("captions",), "images": ("images",)},
    unit="Captions or images",
    in_process=_in_process,
)
