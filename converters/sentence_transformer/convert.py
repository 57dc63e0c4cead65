"""Conversion of one SentenceTransformer, from a local directory to the files of one served version.

Independent of where the directory came from and where the files go. Imports torch, so the pipeline imports
this module late.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from converters.content_hash import digest, file_digest
from converters.graph import torch_export
from converters.graph.pooling import LayerMean
from converters.graph.sentence_graph import Attention, First, SentenceGraph, Tails
from converters.progress import Progress, part
from converters.sentence_transformer import (
    features,
    first_module,
    graph_modules,
    padding,
    positions,
    reference,
)
from converters.sentence_transformer.export import Plan, Target, export, versions
from converters.sentence_transformer.reference import ReferenceModel
from converters.sentence_transformer.samples import prepare
from converters.sentence_transformer.tokenizer import ReferenceTokenizer, notice_of
from converters.sources.inspection import SourceLayout
from converters.verification import packed_check
from converters.verification.budget import Budget, check_seconds
from converters.verification.check import CheckResult
from converters.verification.samples import Samples, save
from triton_models.contract.accuracy import Precision
from triton_models.contract.manifest import Manifest, Source


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
class _Parts:
    """The parts of a graph: the reference with its first module, and the modules after it."""

    reference: ReferenceModel
    tails: Tails

    def packed(self) -> Plan:
        reason = "its attention goes through transformers' attention interface"
        return self._transformer("packed", reason)

    def padded(self, reason: str) -> Plan:
        return self._transformer("padded", reason)

    def without_attention(self) -> Plan:
        kind = type(self.reference.first).__name__
        return self._plan("none", f"{kind} has no attention", first_module.without_attention(self.reference))

    def _transformer(self, attention: Attention, reason: str) -> Plan:
        layers = any(isinstance(module, LayerMean) for module in self.tails.all())
        return self._plan(attention, reason, first_module.transformer(self.reference, attention, layers))

    def _plan(self, attention: Attention, reason: str, first: First) -> Plan:
        loaded = self.reference
        graph = SentenceGraph(first, self.tails, loaded.truncate, not loaded.include_prompt).eval()
        return Plan(attention, reason, graph, first_module.vocab_size(loaded))


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
    notices.append(notice_of(tokenizer.tokenizer, first_module.vocab_size(loaded)))
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
    target = Target(into / "model.onnx", threads, origin.precision)
    parts = _Parts(loaded, tails)
    plan = parts.packed() if loaded.backbone is not None else parts.without_attention()
    plan, result = export(plan, parts.padded, samples, target, progress)
    if packed_check.is_wanted(origin.precision):
        _add_torch(plan, tokenizer, samples, target, progress)
    tokenizer.tokenizer.save(str(into / "tokenizer.json"))
    save(samples, into / "check.npz")
    manifest = _manifest(loaded, tokenizer, plan, samples, result, origin, into)
    (into / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    progress.step("verify", 1.0, f"Verified: cosine to the reference at least {result.min_cosine:.6f}")
    return manifest


def _add_torch(
    plan: Plan, tokenizer: ReferenceTokenizer, samples: Samples, target: Target, progress: Progress
) -> None:
    """Write the files of the torch engine, or the reason why there are none."""
    progress.step("verify", 0.9, "Exporting for torch on GPUs")
    directory = target.path.parent
    if plan.attention != "packed":
        torch_export.refuse(f"its attention is not packed: {plan.reason}", directory)
        return
    longest = tokenizer.max_seq_length
    lengths = [longest, *(limit or longest for limit in tokenizer.lengths.values())]
    graph: Any = plan.graph
    half: nn.Module = graph.first.model
    report = part(progress, "verify", 0.9, 1.0)
    packed_check.write_texts(
        plan.graph, half, samples, plan.vocab_size, lengths, directory, target.precision, report
    )


def _manifest(
    loaded: ReferenceModel,
    tokenizer: ReferenceTokenizer,
    plan: Plan,
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
        versions=versions(),
        **text_settings,
    )
