"""Conversion of one CrossEncoder, from a local directory to the files of one served version.

As `convert` does it for SentenceTransformers. Imports torch, so the pipeline imports this module late.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from converters.content_hash import digest, file_digest
from converters.graph.pair_graph import PairGraph, head_of
from converters.graph.sentence_graph import Attention, Backbone, plant, use_attention
from converters.progress import Progress, part
from converters.sentence_transformer import first_module, pair_reference, positions
from converters.sentence_transformer.convert import Origin
from converters.sentence_transformer.export import Plan, Target, export, versions
from converters.sentence_transformer.pair_reference import PairReference
from converters.sentence_transformer.pair_samples import prepare
from converters.sentence_transformer.pair_tokenizer import PairTokenizer
from converters.sentence_transformer.tokenizer import notice_of
from converters.sources.inspection import SourceLayout
from converters.verification.budget import Budget, check_seconds
from converters.verification.check import CheckResult
from converters.verification.samples import Samples, save
from triton_models.contract.manifest import Manifest, Scoring


@dataclass(frozen=True)
class _Parts:
    """The transformer without its head, and the head."""

    base: Any
    inputs: Any
    head: nn.Module
    vocab_size: int

    @classmethod
    def of(cls, loaded: PairReference) -> "_Parts":
        """Take the reference's model apart; the reference cannot be used afterwards."""
        vocab_size = _vocab_size(loaded)
        base: Any = loaded.backbone.base_model
        inputs = first_module.inputs_of(loaded.first, base)
        return cls(base, inputs, head_of(loaded.backbone), vocab_size)

    def packed(self) -> Plan:
        return self._plan("packed", "its attention goes through transformers' attention interface")

    def padded(self, reason: str) -> Plan:
        return self._plan("padded", reason)

    def _plan(self, attention: Attention, reason: str) -> Plan:
        use_attention(self.base, attention)
        graph = PairGraph(Backbone(self.base, self.inputs, attention), self.head).eval()
        return Plan(attention, reason, graph, self.vocab_size)


def build(
    directory: Path, layout: SourceLayout, origin: Origin, into: Path, threads: int, progress: Progress
) -> Manifest:
    """Convert the model of `directory` and write its files to the existing directory `into`.

    The engine runs with `threads` in the check, which is the number that will serve.

    Raises:
        InvalidModel: The model cannot be loaded, is of a kind that cannot be converted, or fails to export.
        CheckFailed: The converted model does not give the reference's logits.
        OSError: The disk is full.
    """
    progress.step("convert", 0.05, "Loading the reference")
    loaded = pair_reference.load(directory, layout, trust_remote_code=origin.trust_remote_code)
    vocab_size = _vocab_size(loaded)
    notices = [origin.notice, positions.fit_limits(loaded)]
    tokenizer = PairTokenizer(loaded)
    notices.append(notice_of(tokenizer.tokenizer, vocab_size))
    origin = replace(origin, notice="; ".join(filter(None, notices)) or None)
    report = part(progress, "convert", 0.15, 0.45)
    samples = prepare(loaded, tokenizer, vocab_size, Budget(check_seconds()), report)
    # These come after all calls of the reference, because from here on its model belongs to the graph.
    parts = _Parts.of(loaded)
    samples = replace(samples, planted_id=plant(parts.base, parts.base.get_input_embeddings()))
    target = Target(into / "model.onnx", threads, origin.precision)
    plan, result = export(parts.packed(), parts.padded, samples, target, progress)
    tokenizer.tokenizer.save(str(into / "tokenizer.json"))
    save(samples, into / "check.npz")
    manifest = _manifest(loaded, tokenizer, plan, samples, result, origin, into)
    (into / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    most = -result.min_cosine
    progress.step("verify", 1.0, f"Verified: no logit differs from the reference by more than {most:.6f}")
    return manifest


def _vocab_size(loaded: PairReference) -> int:
    base: Any = loaded.backbone.base_model
    return int(base.get_input_embeddings().num_embeddings)


def _manifest(
    loaded: PairReference,
    tokenizer: PairTokenizer,
    plan: Plan,
    samples: Samples,
    result: CheckResult,
    origin: Origin,
    into: Path,
) -> Manifest:
    """Return the manifest; its sha256 also covers the settings that change a row or a score."""
    scoring = Scoring(loaded.labels, loaded.activation, tokenizer.template)
    settings: dict[str, Any] = {
        "prompts": loaded.prompts,
        "default_prompt_name": loaded.default_prompt_name,
    }
    return Manifest(
        model_name=origin.model_name,
        revision=origin.revision,
        source=origin.source,
        dimensions=int(samples.vectors.shape[1]),
        planted_id=samples.planted_id,
        vocab_size=plan.vocab_size,
        max_seq_length=tokenizer.rows.limit,
        max_characters=tokenizer.max_characters,
        add_special_tokens=True,
        special_ids=tokenizer.special_ids,
        attention=plan.attention,
        attention_reason=plan.reason,
        normalized=False,
        sha256=digest(into, {**settings, "scoring": asdict(scoring)}),
        tokenizer_sha256=file_digest(into / "tokenizer.json"),
        check={
            "pairs": result.texts,
            "batches": result.batches,
            "max_difference": -result.min_cosine,
            "max_difference_alone": -result.min_alone,
            "worst_pair": result.worst_text,
        },
        precision=origin.precision,
        notice=origin.notice,
        versions=versions(),
        kind="cross-encoder",
        scoring=scoring,
        **settings,
    )
