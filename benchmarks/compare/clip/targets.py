"""The loads of the CLIP benchmarks, and the figures that must hold."""

from collections.abc import Callable

from benchmarks.compare.targets import Figure, Load, Round, rate

LOADS = (
    Load("captions", "64 connections, one caption", "captions", "captions", 64),
    Load("captions_bulk", "2 connections, 256 captions", "captions", "captions", 2, 256),
    Load("images", "16 connections, one 640x480 JPEG", "images", "images", 16),
    Load("image_latency", "1 connection, one 640x480 JPEG", "images", "images", 1),
)
"""Captions have 5 to 20 words; images go as data URIs. All are unique."""

STRAINS = (
    Load("stall", "16 connections, one 640x480 JPEG", "images", "images", 16),
    Load("memory", "64 connections, one JPEG of 12 megapixels", "images", "images", 64),
)
"""On a start of its own, with a clock on the event loop."""


def in_process_images(measures: Round) -> float:
    """Images a second of open_clip or of the best engine, decoding included, whichever is higher."""
    return max(float(measures["open_clip"]["images"]["best"]), float(measures["engine"]["images"]["best"]))


def _over_fixed(load: str) -> Callable[[Round], float]:
    return lambda measures: rate(measures, "ours", load) / float(measures["fixed77"]["texts"]["best"])


_FIXED = "over the fixed 77 tokens on ONNX Runtime in process"

FIGURES = (
    Figure("captions", _FIXED, 3, True, "x", _over_fixed("captions")),
    Figure("captions_bulk", _FIXED, 3, True, "x", _over_fixed("captions_bulk")),
    Figure(
        "images",
        "of the best rate in process, decoding included",
        0.85,
        True,
        "",
        lambda measures: rate(measures, "ours", "images") / in_process_images(measures),
    ),
    Figure(
        "images",
        "bytes to Triton an image",
        150_528,
        False,
        "",
        lambda measures: float(measures["ours"]["wire"]["bytes"]),
    ),
    Figure(
        "stall",
        "the event loop's longest stall",
        20,
        False,
        "ms",
        lambda measures: float(measures["ours"]["stall"]["longest_ms"]),
    ),
    Figure(
        "memory",
        "the front end above idle",
        500,
        False,
        "MB",
        lambda measures: float(measures["ours"]["memory"]["above_idle_mb"]),
    ),
)
