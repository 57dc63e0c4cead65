"""Chooses the engine for a converted model, and checks the model with it.

The fastest that keeps to a small sample is checked with all texts; one that fails is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from converters.errors import CheckFailed
from converters.verification import check
from converters.verification.check import CheckResult, Samples
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.engine_selection import Sample, Selection, select, write
from triton_models.backends.onnxruntime.sessions import DEFAULT, EngineName
from triton_models.contract.accuracy import BOUNDS, Bounds, Precision

Without = Sequence[EngineName]


def chosen(
    select: Callable[[Without], Selection], check: Callable[[Selection], CheckResult], directory: Path
) -> CheckResult:
    """Check with the engine that `select` gives, which leaves out those that failed, and record it.

    Raises:
        CheckFailed: what is left is plain fp32, or the engine that the operator fixed, and it fails.
    """
    without: list[EngineName] = []
    while True:
        selection = select(without)
        try:
            result = check(selection)
        except CheckFailed:
            if selection.fixed_by_operator or selection.name == DEFAULT:
                raise
            without.append(selection.name)
            continue
        write(selection, directory)
        return result


def verify(
    samples: Samples, path: Path, threads: int, precision: Precision, report: Callable[[float, str], None]
) -> CheckResult:
    """Check `path` with the engine that will serve, and record that engine beside it.

    fp16 is for GPUs, where there is no choice; without one it is checked in ONNX Runtime on the CPU.

    Raises:
        CheckFailed: as `chosen`.
    """
    bounds = BOUNDS[precision]
    if precision == "fp16":
        return _verify(Engine(path, threads), samples, report, bounds)
    rows = samples.spread(check.KEPT_SAMPLES, check.KEPT_TOKENS)
    sample = Sample([samples.ids[row] for row in rows], samples.vectors[rows])

    def checked(selection: Selection) -> CheckResult:
        kept = Bounds(bounds.reference, bounds.reference) if selection.fixed_by_operator else bounds
        engine = Engine(path, threads, selection.name, selection.streams)
        return _verify(engine, samples, report, kept)

    return chosen(lambda without: select(path, sample, threads, without), checked, path.parent)


def _verify(
    engine: Engine, samples: Samples, report: Callable[[float, str], None], least: Bounds
) -> CheckResult:
    result = check.verify(engine.run, samples, report, least)
    if not samples.tokens:
        return result
    return replace(result, min_token_cosine=check.verify_tokens(engine.run_tokens, samples, least))
