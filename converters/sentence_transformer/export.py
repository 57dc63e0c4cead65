"""Export of a graph and its check: packed where the model allows it, else padded."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from converters.errors import CheckFailed, InvalidModel, describe
from converters.graph import fp16, onnx_export
from converters.graph.sentence_graph import Attention
from converters.graph.varlen import CannotPack
from converters.progress import Progress, part
from converters.verification import engine_check
from converters.verification.check import CheckResult
from converters.verification.samples import Samples
from triton_models.backends.onnxruntime.sessions import POOLED, TOKENS
from triton_models.contract.accuracy import Precision
from triton_models.contract.config import SCORES
from triton_models.contract.manifest import bounds_of

_TRIAL_TEXTS = 10
_TRIAL_TOKENS = 400


@dataclass(frozen=True)
class Plan:
    """A graph, and how and why it computes attention as it does, which the manifest records."""

    attention: Attention
    reason: str
    graph: nn.Module
    vocab_size: int


@dataclass(frozen=True)
class Target:
    """Target of the export: the graph's file, its precision, and the number of threads that run it."""

    path: Path
    threads: int
    precision: Precision


def export(
    plan: Plan, padded: Callable[[str], Plan], samples: Samples, target: Target, progress: Progress
) -> tuple[Plan, CheckResult]:
    """Export and verify a graph; if it is packed and fails, use a padded one.

    Args:
        plan: The graph.
        padded: Returns the padded graph for a reason.
        samples: The inputs of the check.
        target: Where the graph is written.
        progress: Receiver of the steps.

    Returns:
        The plan that was carried out, and the result of its check.

    Raises:
        InvalidModel: The graph cannot be exported or run.
        CheckFailed: The graph does not give the reference's vectors.
    """
    if plan.attention == "packed":
        plan = _tried(plan, padded, samples)
    try:
        return plan, _export_and_verify(plan, samples, target, progress)
    except (InvalidModel, CheckFailed) as error:
        if plan.attention != "packed":
            raise
        plan = padded(f"packed attention was tried and failed: {error}")
    return plan, _export_and_verify(plan, samples, target, progress)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that convert, by name."""
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnxruntime")
    return {name: importlib.metadata.version(name) for name in packages}


def _tried(plan: Plan, padded: Callable[[str], Plan], samples: Samples) -> Plan:
    """Return the packed plan if a trial batch in torch gives the reference's vectors, else the padded one."""
    rows = samples.spread(_TRIAL_TEXTS, _TRIAL_TOKENS)
    ids, lengths = (torch.from_numpy(array) for array in samples.batch(rows))
    try:
        with torch.inference_mode():
            vectors = plan.graph(ids, lengths.unsqueeze(1))[0].numpy()
    except (*onnx_export.ERRORS, CannotPack) as error:
        return padded(f"cannot be packed: {describe(error)}")
    bounds = bounds_of(samples.kind, "fp32")
    least = float(bounds.agreement(vectors, samples.vectors[rows]).min())
    if least < bounds.reference:
        what = bounds.describe(least, bounds.reference)
        return padded(f"packed, it gives other vectors than the reference ({what})")
    return plan


def _export_and_verify(plan: Plan, samples: Samples, target: Target, progress: Progress) -> CheckResult:
    progress.step("convert", 0.5, f"Exporting to ONNX, attention {plan.attention}: {plan.reason}")
    try:
        program = onnx_export.trace(plan.graph, plan.vocab_size, outputs=_outputs(samples))
    except CannotPack as error:
        raise InvalidModel(f"the packed graph cannot be traced: {error}") from error
    except onnx_export.ERRORS as error:
        raise InvalidModel(f"the model cannot be exported to ONNX: {describe(error)}") from error
    progress.step("convert", 0.9, "Writing the ONNX file")
    onnx_export.write(program, target.path)
    del program
    if target.precision == "fp16":
        fp16.convert(target.path)
    progress.step("verify", 0.0, "Loading the converted model")
    progress.step("verify", 0.0, "Measuring the engines")
    report = part(progress, "verify", 0.1, 1.0)
    return engine_check.verify(samples, target.path, target.threads, target.precision, report)


def _outputs(samples: Samples) -> tuple[str, ...]:
    if samples.kind == "cross-encoder":
        return (SCORES,)
    return (POOLED, TOKENS) if samples.tokens else (POOLED,)
