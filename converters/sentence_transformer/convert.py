"""Conversion of one SentenceTransformer, from a local directory to the files of one served version.

Independent of where the directory came from and where the files go. Imports torch, so the pipeline imports
this module late.
"""

import importlib.metadata
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from converters.content_hash import digest, file_digest
from converters.errors import CheckFailed, InvalidModel, describe
from converters.graph import fp16, onnx_export, torch_export
from converters.graph.pooling import LayerMean
from converters.graph.sentence_graph import Attention, First, SentenceGraph, Tails
from converters.graph.varlen import CannotPack
from converters.progress import Progress, part
from converters.sentence_transformer import (
    features,
    first_module,
    graph_modules,
    padding,
    positions,
    reference,
)
from converters.sentence_transformer.reference import ReferenceModel
from converters.sentence_transformer.samples import prepare
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.sources.inspection import SourceLayout
from converters.verification import engine_check, packed_check
from converters.verification.budget import Budget, check_seconds
from converters.verification.check import CheckResult
from converters.verification.samples import Samples, save
from triton_models.backends.onnxruntime.sessions import POOLED, TOKENS
from triton_models.contract.accuracy import LEAST_COSINE, Precision, cosines
from triton_models.contract.manifest import Manifest, Source

_TRIAL_TEXTS = 10
_TRIAL_TOKENS = 400


@dataclass(frozen=True)
class Origin:
    """Facts and wishes of the caller about a model, which the conversion records."""

    model_name: str
    revision: str | None
    source: Source
    trust_remote_code: bool
    precision: Precision = "fp32"
    notice: str | None = None


@dataclass(frozen=True)
class _Plan:
    """A graph, and how and why it computes attention as it does, which the manifest records."""

    attention: Attention
    reason: str
    graph: SentenceGraph
    vocab_size: int


@dataclass(frozen=True)
class _Target:
    """Target of the export: the graph's file, its precision, and the number of threads that run it."""

    path: Path
    threads: int
    precision: Precision


@dataclass(frozen=True)
class _Parts:
    """The parts of a graph: the reference with its first module, and the modules after it."""

    reference: ReferenceModel
    tails: Tails

    def packed(self) -> _Plan:
        reason = "its attention goes through transformers' attention interface"
        return self._transformer("packed", reason)

    def padded(self, reason: str) -> _Plan:
        return self._transformer("padded", reason)

    def without_attention(self) -> _Plan:
        kind = type(self.reference.first).__name__
        return self._plan("none", f"{kind} has no attention", first_module.without_attention(self.reference))

    def _transformer(self, attention: Attention, reason: str) -> _Plan:
        layers = any(isinstance(module, LayerMean) for module in self.tails.all())
        return self._plan(attention, reason, first_module.transformer(self.reference, attention, layers))

    def _plan(self, attention: Attention, reason: str, first: First) -> _Plan:
        loaded = self.reference
        graph = SentenceGraph(first, self.tails, loaded.truncate, not loaded.include_prompt).eval()
        return _Plan(attention, reason, graph, first_module.vocab_size(loaded))


def build(
    directory: Path, layout: SourceLayout, origin: Origin, into: Path, threads: int, progress: Progress
) -> Manifest:
    """Convert the model of `directory` and write its files to the existing directory `into`.

    The engine runs with `threads` in the check, which is the number that will serve.

    Raises:
        InvalidModel: The model cannot be loaded, is of a kind that cannot be converted, or fails to export.
        CheckFailed: The converted model does not give the reference's vectors.
        OSError: The disk is full.
    """
    progress.step("convert", 0.05, "Loading the reference")
    loaded = reference.load(directory, layout, trust_remote_code=origin.trust_remote_code)
    tails, unused = graph_modules.after_first(loaded)
    padding.leave_out(loaded)
    notices = [origin.notice, first_module.images_left_out(loaded), unused, positions.fit_limits(loaded)]
    tokenizer = ReferenceTokenizer(loaded)
    notices.append(tokenizer.notice(first_module.vocab_size(loaded)))
    origin = replace(origin, notice="; ".join(filter(None, notices)) or None)
    with reference.on_gpu(loaded):
        samples = prepare(
            loaded,
            tokenizer,
            first_module.vocab_size(loaded),
            Budget(check_seconds()),
            part(progress, "convert", 0.15, 0.45),
        )
    # This comes after all calls of the reference, because from here on its table belongs to the graph.
    samples = replace(samples, planted_id=first_module.plant_flaw(loaded))
    target = _Target(into / "model.onnx", threads, origin.precision)
    plan, result = _convert(_Parts(loaded, tails), samples, target, progress)
    if packed_check.is_wanted(origin.precision):
        _add_torch(plan, tokenizer, samples, target, progress)
    tokenizer.tokenizer.save(str(into / "tokenizer.json"))
    save(samples, into / "check.npz")
    manifest = _manifest(loaded, tokenizer, plan, samples, result, origin, into)
    (into / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    progress.step("verify", 1.0, f"Verified: cosine to the reference at least {result.min_cosine:.6f}")
    return manifest


def _convert(
    parts: _Parts, samples: Samples, target: _Target, progress: Progress
) -> tuple[_Plan, CheckResult]:
    """Export and verify; if the packed graph cannot be exported or fails its check, use a padded one."""
    plan = _plan(parts, samples)
    try:
        return plan, _export_and_verify(plan, samples, target, progress)
    except (InvalidModel, CheckFailed) as error:
        if plan.attention != "packed":
            raise
        plan = parts.padded(f"packed attention was tried and failed: {error}")
    return plan, _export_and_verify(plan, samples, target, progress)


def _plan(parts: _Parts, samples: Samples) -> _Plan:
    """Return the plan: static, packed if a trial batch in torch gives the reference's vectors, or padded."""
    if parts.reference.backbone is None:
        return parts.without_attention()
    plan = parts.packed()
    rows = samples.spread(_TRIAL_TEXTS, _TRIAL_TOKENS)
    ids, lengths = (torch.from_numpy(array) for array in samples.batch(rows))
    try:
        with torch.inference_mode():
            vectors = plan.graph(ids, lengths.unsqueeze(1))[0].numpy()
    except (*onnx_export.ERRORS, CannotPack) as error:
        return parts.padded(f"cannot be packed: {describe(error)}")
    least = float(cosines(vectors, samples.vectors[rows]).min())
    if least < LEAST_COSINE:
        return parts.padded(f"packed, it gives other vectors than the reference (cosine {least:.4f})")
    return plan


def _export_and_verify(plan: _Plan, samples: Samples, target: _Target, progress: Progress) -> CheckResult:
    progress.step("convert", 0.5, f"Exporting to ONNX, attention {plan.attention}: {plan.reason}")
    try:
        outputs = (POOLED, TOKENS) if samples.tokens else (POOLED,)
        program = onnx_export.trace(plan.graph, plan.vocab_size, outputs=outputs)
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


def _add_torch(
    plan: _Plan, tokenizer: ReferenceTokenizer, samples: Samples, target: _Target, progress: Progress
) -> None:
    """Write the files of the torch engine, or the reason why there are none."""
    progress.step("verify", 0.9, "Exporting for torch on GPUs")
    directory = target.path.parent
    if plan.attention != "packed":
        torch_export.refuse(f"its attention is not packed: {plan.reason}", directory)
        return
    longest = tokenizer.max_seq_length
    lengths = [longest, *(limit or longest for limit in tokenizer.lengths.values())]
    half = plan.graph.first.model
    assert isinstance(half, torch.nn.Module)
    report = part(progress, "verify", 0.9, 1.0)
    packed_check.write_texts(
        plan.graph, half, samples, plan.vocab_size, lengths, directory, target.precision, report
    )


def _manifest(
    loaded: ReferenceModel,
    tokenizer: ReferenceTokenizer,
    plan: _Plan,
    samples: Samples,
    result: CheckResult,
    origin: Origin,
    into: Path,
) -> Manifest:
    """Return the manifest; its sha256 also covers the settings that change a text's ids."""
    text_settings: dict[str, Any] = {
        "prompts": loaded.prompts,
        "default_prompt_name": loaded.default_prompt_name,
        "include_prompt": loaded.include_prompt,
        "special_ids": tokenizer.special_ids,
        **{f"{kind}_length": limit for kind, limit in tokenizer.lengths.items()},
    }
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnxruntime")
    return Manifest(
        model_name=origin.model_name,
        revision=origin.revision,
        source=origin.source,
        dimensions=int(samples.vectors.shape[1]),
        planted_id=samples.planted_id,
        token_dimensions=int(samples.tokens[0].vectors.shape[1]) if samples.tokens else None,
        vocab_size=first_module.vocab_size(loaded),
        max_seq_length=tokenizer.max_seq_length,
        max_characters=tokenizer.max_characters,
        add_special_tokens=tokenizer.add_special_tokens,
        attention=plan.attention,
        attention_reason=plan.reason,
        normalized=all(features.end_normalized(loaded.chain(kind)) for kind in (None, *loaded.routed))
        and loaded.truncate is None,
        sha256=digest(into, {**text_settings, **tokenizer.unusual}),
        routed=list(loaded.routed),
        word_lookup=tokenizer.word_lookup,
        tokenizer_sha256=file_digest(into / "tokenizer.json"),
        check=asdict(result),
        precision=origin.precision,
        notice=origin.notice,
        versions={name: importlib.metadata.version(name) for name in packages},
        **text_settings,
    )
