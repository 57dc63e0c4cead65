"""Which engine serves an image tower on this machine; `selection` tells of the why.

Measured once a machine, recorded as `engine.json` beside the model; ENGINE fixes it instead.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_models.accuracy import LEAST_ALONE, LEAST_COSINE, cosines
from triton_models.backends.onnxruntime.image_engine import ImageEngine
from triton_models.backends.onnxruntime.selection import Measurement, Selection, machine, read, write
from triton_models.backends.onnxruntime.sessions import (
    DEFAULT,
    ENGINES,
    EngineName,
    has_bfloat16,
    parse_engine,
)
from triton_models.checks import ImageCheck

ROUNDS = 3

IMAGE_ENGINES = tuple(name for name in ENGINES if name.precision in ("fp32", "bf16"))
"""What lies between the two is made for text models."""

log = logging.getLogger(__name__)


def image_engine_for(directory: Path, threads: int, *, gpu: bool = False) -> EngineName:
    """The engine for the image tower of `directory`: fixed by ENGINE, recorded, or measured and recorded.

    Raises:
        UnknownEngine: ENGINE names none.
    """
    fixed = _fixed()
    if fixed is not None:
        return fixed
    path = directory / "check.npz"
    if gpu or not path.is_file():
        return DEFAULT
    recorded = read(directory)
    if recorded is not None and recorded.holds(threads, None):
        return recorded.name
    selection = select_for_images(directory / "model.onnx", ImageCheck.read(path.read_bytes()), threads)
    try:
        write(selection, directory)
    except OSError as error:
        log.warning("the choice of engine cannot be recorded and is measured at every load: %s", error)
    return selection.name


def select_for_images(
    path: Path, sample: ImageCheck, threads: int, without: Sequence[EngineName] = ()
) -> Selection:
    """Measure every engine on the sample; `without` are known not to serve.

    ENGINE is respected: the engine that it fixes is chosen without measuring.
    """
    fixed = _fixed()
    if fixed is not None:
        return Selection(str(fixed), 1, machine(), threads, True, [])
    measured = [_measure(path, sample, threads, name) for name in IMAGE_ENGINES if name not in without]
    usable = [one for one in measured if one.refused is None and one.seconds is not None]
    fastest = min(usable, key=lambda one: one.seconds or 0.0).engine if usable else str(DEFAULT)
    return Selection(fastest, 1, machine(), threads, False, measured)


def _fixed() -> EngineName | None:
    """What ENGINE fixes; a precision that is for texts only becomes fp32."""
    text = os.environ.get("ENGINE", "auto")
    if text == "auto":
        return None
    name = parse_engine(text)
    return name if name in IMAGE_ENGINES else EngineName(name.engine, "fp32")


def _measure(path: Path, sample: ImageCheck, threads: int, name: EngineName) -> Measurement:
    """Speed and accuracy of one engine."""
    try:
        if name.precision != "fp32" and not has_bfloat16():
            return Measurement(str(name), 1, None, None, None, "this CPU has no bfloat16")
        engine = ImageEngine(path, threads, name)
        alone = np.concatenate([engine.run(image[np.newaxis]) for image in sample.images])
        together = engine.run(sample.images)
    except (RuntimeError, ImportError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        return Measurement(str(name), 1, None, None, None, reason)
    to_reference = _least(alone, sample.embeddings), _least(together, sample.embeddings)
    to_alone = _least(alone, together)
    refused = None
    if not min(to_reference) >= LEAST_COSINE:
        refused = f"cosine to the reference {min(to_reference):.6f}, at least {LEAST_COSINE} is needed"
    elif not to_alone >= LEAST_ALONE:
        refused = f"cosine alone to among others {to_alone:.6f}, at least {LEAST_ALONE} is needed"
    return Measurement(str(name), 1, _seconds(engine, sample), min(to_reference), to_alone, refused)


def _least(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(cosines(one, other).min())


def _seconds(engine: ImageEngine, sample: ImageCheck) -> float:
    """Median time for two images alone and then all together."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for image in sample.images[:2]:
            engine.run(image[np.newaxis])
        engine.run(sample.images)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
