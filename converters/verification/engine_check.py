"""Choice of the engine for a converted model, and the check of the model with that engine.

The fastest engine that passes on a small sample is checked with all texts. If it fails, the next one is
tried.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from converters.causes import blamed_on_the_model
from converters.errors import CheckFailed, InvalidModel
from converters.verification import check
from converters.verification.budget import check_seconds
from converters.verification.check import CheckResult
from converters.verification.samples import Samples
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.engine_selection import LONGEST, Selection, select, write
from triton_models.backends.onnxruntime.sample import Sample
from triton_models.backends.onnxruntime.sessions import DEFAULT, EngineName
from triton_models.contract.accuracy import Bounds, Precision
from triton_models.contract.manifest import bounds_of

_TRIAL_TEXTS = 12

Without = Sequence[EngineName]


def cannot_run() -> AbstractContextManager[None]:
    """Return a context in which the engines' failures are InvalidModel, as for an operator that they lack."""
    return blamed_on_the_model(lambda: "ONNX Runtime cannot run the converted model")


def check_with_fastest(
    select: Callable[[Without], Selection], check: Callable[[Selection], CheckResult], directory: Path
) -> CheckResult:
    """Check with the fastest engine, or after failures with the next ones, and record the one that passes.

    Args:
        select: Chooses the fastest engine, leaving out the given ones.
        check: Checks the model with an engine, on all texts or images.
        directory: The selection is recorded here.

    Raises:
        CheckFailed: The check fails with plain fp32, or with the engine that the operator fixed.
        InvalidModel: These cannot run the model, or no engine can be chosen.
    """
    without: list[EngineName] = []
    while True:
        with cannot_run():
            selection = select(without)
        try:
            with cannot_run():
                result = check(selection)
        except (CheckFailed, InvalidModel):
            if selection.fixed_by_operator or selection.name == DEFAULT:
                raise
            without.append(selection.name)
            continue
        write(selection, directory)
        return result


def verify(
    samples: Samples, path: Path, threads: int, precision: Precision, report: Callable[[float, str], None]
) -> CheckResult:
    """Check the model at `path` with the engine that will serve, and record that engine beside the model.

    fp16 is for GPUs, where there is no engine to choose or to record. Without a GPU, ONNX Runtime checks
    the model on the CPU.

    Raises:
        CheckFailed: The check fails with fp16, or as in `check_with_fastest`.
    """
    bounds = bounds_of(samples.kind, precision)
    if precision == "fp16":
        with cannot_run():
            return _verify(Engine(path, threads), samples, report, bounds)
    # More or longer texts would take most of the time here; the check itself has them.
    rows = samples.spread(_TRIAL_TEXTS, LONGEST)
    sample = Sample([samples.ids[row] for row in rows], samples.vectors[rows], bounds)

    def checked(selection: Selection) -> CheckResult:
        kept = bounds._replace(alone=bounds.reference) if selection.fixed_by_operator else bounds
        engine = Engine(path, threads, selection.name, selection.streams)
        return _verify(engine, samples, report, kept)

    return check_with_fastest(lambda without: select(path, sample, threads, without), checked, path.parent)


def _verify(
    engine: Engine, samples: Samples, report: Callable[[float, str], None], least: Bounds
) -> CheckResult:
    result = check.verify(engine.run, samples, report, least, check_seconds())
    if not samples.tokens:
        return result
    return replace(result, min_token_cosine=check.verify_tokens(engine.run_tokens, samples, least))
