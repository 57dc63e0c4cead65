"""Chooses the engine for a converted model, and checks the model with it.

The fastest that keeps to a small sample is checked with all texts; one that fails is left out.
"""

from collections.abc import Callable
from pathlib import Path

from converters import check
from converters.check import CheckResult, Samples
from converters.errors import CheckFailed
from triton_models.accuracy import BOUNDS, Bounds, Precision
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.selection import Sample, select, write
from triton_models.backends.onnxruntime.sessions import DEFAULT, EngineName


def verify(
    samples: Samples, path: Path, threads: int, precision: Precision, report: Callable[[float, str], None]
) -> CheckResult:
    """Check `path` with the engine that will serve, and record that engine beside it.

    fp16 is for GPUs, where there is no choice; without one it is checked in ONNX Runtime on the CPU.

    Raises:
        CheckFailed: what is left is plain fp32, or the engine that the operator fixed, and it fails.
    """
    bounds = BOUNDS[precision]
    if precision == "fp16":
        return check.verify(Engine(path, threads).run, samples, report, bounds)
    rows = samples.spread(check.KEPT_SAMPLES, check.KEPT_TOKENS)
    sample = Sample([samples.ids[row] for row in rows], samples.vectors[rows])
    without: list[EngineName] = []
    while True:
        selection = select(path, sample, threads, without)
        if selection.fixed_by_operator:
            bounds = Bounds(bounds.reference, bounds.reference)
        engine = Engine(path, threads, selection.name, selection.streams)
        try:
            result = check.verify(engine.run, samples, report, bounds)
        except CheckFailed:
            if selection.fixed_by_operator or selection.name == DEFAULT:
                raise
            without.append(selection.name)
            continue
        write(selection, path.parent)
        return result
