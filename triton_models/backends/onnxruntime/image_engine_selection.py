"""Choice of an image tower's engine on this machine, as `engine_selection` makes it for text models.

The engines are measured once for each machine, and the choice is recorded as `engine.json` beside the model.
If ENGINE fixes the engine, nothing is measured.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from triton_models.backends.onnxruntime.engine_selection import (
    Measurement,
    Selection,
    Trial,
    fastest,
    judge,
    median_of_rounds,
    recorded_or,
)
from triton_models.backends.onnxruntime.image_engine import ImageEngine
from triton_models.backends.onnxruntime.machine import machine
from triton_models.backends.onnxruntime.sessions import CPU, DEFAULT, ENGINES, EngineName, fixed_on_cpu
from triton_models.contract.accuracy import BOUNDS, Bounds, cosines
from triton_models.contract.checks import ImageCheck

ROUNDS = 3

IMAGE_ENGINES = tuple(name for name in ENGINES if name.precision in ("fp32", "bf16"))
"""The engines for image towers; the precision between fp32 and bf16 is made for text models."""


def image_engine_for(directory: Path, threads: int, *, anew: bool = False) -> EngineName:
    """Return the engine for the image tower in `directory`: fixed by ENGINE, recorded, or measured now.

    Args:
        directory: Directory of the tower's version.
        threads: Threads of one run.
        anew: Measure even if there is a record.

    Raises:
        UnknownEngine: ENGINE names no engine.
    """
    fixed = _fixed()
    if fixed is not None:
        return fixed
    path = directory / "check.npz"
    if not path.is_file():
        return DEFAULT

    def choose() -> Selection:
        return select_for_images(directory / "model.onnx", ImageCheck.read(path.read_bytes()), threads)

    return recorded_or(directory, threads, None, choose, anew=anew).name


def is_right(engine: ImageEngine, directory: Path, bounds: Bounds = BOUNDS["fp32"]) -> bool:
    """Return whether the check's images, computed at once, agree with the reference; True without a check."""
    path = directory / "check.npz"
    if not path.is_file():
        return True
    sample = ImageCheck.read(path.read_bytes())
    return bool(cosines(engine.run(sample.images), sample.embeddings).min() >= bounds.reference)


def select_for_images(
    path: Path, sample: ImageCheck, threads: int, without: Sequence[EngineName] = ()
) -> Selection:
    """Measure every engine on the sample, except those of `without`, and return the fastest one.

    The engine that ENGINE fixes is chosen without measuring.
    """
    fixed = _fixed()
    if fixed is not None:
        return Selection(str(fixed), 1, machine(), threads, True, [])
    measured = [measure(path, sample, threads, name) for name in IMAGE_ENGINES if name not in without]
    best = fastest(measured)
    return Selection(best.engine if best else str(DEFAULT), 1, machine(), threads, False, measured)


def _fixed() -> EngineName | None:
    """Return the engine that ENGINE fixes, or None; a precision for texts only becomes fp32."""
    name = fixed_on_cpu()
    return name if name is None or name in IMAGE_ENGINES else EngineName(name.engine, "fp32")


def measure(
    path: Path,
    sample: ImageCheck,
    threads: int,
    name: EngineName,
    device: str = CPU,
    bounds: Bounds = BOUNDS["fp32"],
) -> Measurement:
    """Measure the speed and accuracy of one engine."""

    def run() -> Trial:
        engine = ImageEngine(path, threads, name, device)
        alone = np.concatenate([engine.run(image[np.newaxis]) for image in sample.images])
        return Trial(alone, engine.run(sample.images), lambda: _seconds(engine, sample))

    return judge(name, 1, sample.embeddings, run, bounds)


def _seconds(engine: ImageEngine, sample: ImageCheck) -> float:
    """Return the median time for two images, each alone, and then all images together."""

    def once() -> float:
        start = time.perf_counter()
        for image in sample.images[:2]:
            engine.run(image[np.newaxis])
        engine.run(sample.images)
        return time.perf_counter() - start

    return median_of_rounds(once, ROUNDS)
