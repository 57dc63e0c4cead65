"""One SentenceTransformer, from a local directory to the files of one served version.

Knows nothing about where the directory came from or where the files go. The only way into the
modules that import torch.
"""

import importlib.metadata
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
)
from torch import nn

from converters.content_hash import digest, file_digest
from converters.errors import CheckFailed, InvalidModel, describe
from converters.graph import fp16, onnx_export
from converters.graph.packed_attention import CannotPack
from converters.graph.pooling import GatherPooling
from converters.graph.sentence_graph import (
    Attention,
    Backbone,
    Inputs,
    SentenceGraph,
    StaticMean,
    plant,
    use_attention,
)
from converters.progress import Progress, part
from converters.sentence_transformer import reference
from converters.sentence_transformer.reference import Reference
from converters.sentence_transformer.samples import prepare
from converters.sentence_transformer.tokenizer import TextTokenizer
from converters.sources.inspection import Anatomy
from converters.verification import check, engine_check
from converters.verification.check import CheckResult, Samples
from triton_models.backends.onnxruntime.sessions import POOLED, TOKENS
from triton_models.contract.accuracy import LEAST_COSINE, Precision, cosines
from triton_models.contract.manifest import Manifest, Source

_TRIAL_TEXTS = 10
_TRIAL_TOKENS = 400


@dataclass(frozen=True)
class Origin:
    """What the caller knows and wants of a model, and the conversion records."""

    model_name: str
    revision: str | None
    source: Source
    trust_remote_code: bool
    precision: Precision = "fp32"
    notice: str | None = None


@dataclass(frozen=True)
class _Plan:
    """How the graph computes attention, and why; recorded in the manifest."""

    attention: Attention
    reason: str
    graph: SentenceGraph
    vocab_size: int


@dataclass(frozen=True)
class _Target:
    """Where the graph goes, and what runs it."""

    path: Path
    threads: int
    precision: Precision


@dataclass(frozen=True)
class _Parts:
    """What a graph is made of: the reference's first module, and what follows it."""

    reference: Reference
    modules: list[nn.Module]

    def packed(self) -> _Plan:
        reason = "its attention goes through transformers' attention interface"
        return self._transformer("packed", reason)

    def padded(self, reason: str) -> _Plan:
        return self._transformer("padded", reason)

    def static(self) -> _Plan:
        weight = self.reference.first.embedding.weight.detach()
        return self._plan("none", "static embeddings have no attention", StaticMean(weight))

    def _transformer(self, attention: Attention, reason: str) -> _Plan:
        backbone = self.reference.backbone
        assert backbone is not None
        use_attention(backbone, attention)
        return self._plan(attention, reason, Backbone(backbone, _inputs(self.reference), attention))

    def _plan(self, attention: Attention, reason: str, first: Backbone | StaticMean) -> _Plan:
        loaded = self.reference
        graph = SentenceGraph(first, self.modules, loaded.truncate, not loaded.include_prompt).eval()
        return _Plan(attention, reason, graph, _vocab_size(loaded))


def build(
    directory: Path, anatomy: Anatomy, origin: Origin, into: Path, threads: int, progress: Progress
) -> Manifest:
    """Convert the model of `directory` and write its files to the existing directory `into`.

    threads: of the engine in the check; the number that will serve.

    Raises:
        InvalidModel: it cannot be loaded, is of a kind that cannot be converted, or fails to export.
        CheckFailed: the converted model does not give the reference's vectors.
        OSError: the disk is full.
    """
    progress.step("convert", 0.05, "Loading the reference")
    loaded = reference.load(directory, anatomy, trust_remote_code=origin.trust_remote_code)
    modules = _modules_after(loaded)
    tokenizer = TextTokenizer(loaded)
    samples = prepare(loaded, tokenizer, part(progress, "convert", 0.15, 0.45))
    # After all that the reference is asked: from here on its table belongs to the graph.
    samples = replace(samples, planted_id=_plant(loaded))
    target = _Target(into / "model.onnx", threads, origin.precision)
    plan, result = _convert(_Parts(loaded, modules), samples, target, progress)
    tokenizer.tokenizer.save(str(into / "tokenizer.json"))
    check.save(samples, into / "check.npz")
    manifest = _manifest(loaded, tokenizer, plan, samples, result, origin, into)
    (into / "model.json").write_text(manifest.to_json(), encoding="utf-8")
    progress.step("verify", 1.0, f"Verified: cosine to the reference at least {result.min_cosine:.6f}")
    return manifest


def _convert(
    parts: _Parts, samples: Samples, target: _Target, progress: Progress
) -> tuple[_Plan, CheckResult]:
    """Export and verify; padded where the packed graph cannot be exported or fails its check."""
    plan = _plan(parts, samples)
    try:
        return plan, _export_and_verify(plan, samples, target, progress)
    except (InvalidModel, CheckFailed) as error:
        if plan.attention != "packed":
            raise
        plan = parts.padded(f"packed attention was tried and failed: {error}")
    return plan, _export_and_verify(plan, samples, target, progress)


def _plan(parts: _Parts, samples: Samples) -> _Plan:
    """Packed where a trial batch in torch gives the reference's vectors, else padded."""
    if parts.reference.backbone is None:
        return parts.static()
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
        program = onnx_export.trace(plan.graph, plan.vocab_size, outputs=(POOLED, TOKENS))
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


def _modules_after(loaded: Reference) -> list[nn.Module]:
    """What the graph holds after the first module.

    Raises:
        InvalidModel: naming a module that is not supported.
    """
    is_static = loaded.backbone is None
    modules: list[nn.Module] = []
    for module in list(loaded.model)[1:]:
        if type(module) is Pooling:
            if is_static:
                raise InvalidModel("the module Pooling after static embeddings is not supported")
            mode: Any = module.pooling_mode
            modules.append(GatherPooling((mode,) if isinstance(mode, str) else tuple(mode)))
        elif type(module) in (Dense, LayerNorm, Normalize):
            modules.append(module)
        elif type(module) is not Dropout:
            raise InvalidModel(f"the module {type(module).__name__} is not supported")
    pools = any(isinstance(module, GatherPooling) for module in modules)
    if not pools and not is_static:
        raise InvalidModel("the model has no Pooling module: it gives token vectors, not one for a text")
    return modules


def _inputs(loaded: Reference) -> Inputs:
    """What this architecture takes, read off its modules and off what the reference passes."""
    first, backbone = loaded.first, loaded.backbone
    assert backbone is not None
    modules = dict(backbone.named_modules())
    features = first.preprocess(["text"])
    table = next((module for name, module in modules.items() if name.endswith("position_embeddings")), None)
    takes = first._declared_forward_params
    has_types = "token_type_ids" in features or any(
        name.endswith("token_type_embeddings") for name in modules
    )
    pad_id = getattr(backbone.config, "pad_token_id", None)
    if pad_id is None:
        pad_id = getattr(first.tokenizer, "pad_token_id", None)
    return Inputs(
        token_types="token_type_ids" in takes and has_types,
        positions="position_ids" in takes,
        padding_id=getattr(table, "padding_idx", None),
        pad_id=pad_id or 0,
    )


def _vocab_size(loaded: Reference) -> int:
    first, backbone = loaded.first, loaded.backbone
    if backbone is None:
        return int(first.num_embeddings)
    table: Any = backbone.get_input_embeddings()
    return int(table.num_embeddings)


def _plant(loaded: Reference) -> int:
    """The id of the token without a finite vector; `StaticMean` makes its own."""
    if loaded.backbone is None:
        return int(loaded.first.embedding.weight.shape[0])
    table: Any = loaded.backbone.get_input_embeddings()
    return plant(loaded.backbone, table)


def _manifest(
    loaded: Reference,
    tokenizer: TextTokenizer,
    plan: _Plan,
    samples: Samples,
    result: CheckResult,
    origin: Origin,
    into: Path,
) -> Manifest:
    """What is recorded; the sha256 also covers what changes a text's ids beside the tokenizer."""
    text_settings: dict[str, Any] = {
        "prompts": loaded.prompts,
        "default_prompt_name": loaded.default_prompt_name,
        "include_prompt": loaded.include_prompt,
        "special_ids": tokenizer.special_ids,
        **{f"{kind}_length": limit for kind, limit in tokenizer.lengths.items()},
    }
    last = list(loaded.model)[-1]
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnxruntime")
    return Manifest(
        model_name=origin.model_name,
        revision=origin.revision,
        source=origin.source,
        dimensions=int(samples.vectors.shape[1]),
        planted_id=samples.planted_id,
        token_dimensions=int(samples.tokens[0].vectors.shape[1]),
        vocab_size=_vocab_size(loaded),
        max_seq_length=tokenizer.max_seq_length,
        max_characters=tokenizer.max_characters,
        add_special_tokens=tokenizer.add_special_tokens,
        attention=plan.attention,
        attention_reason=plan.reason,
        normalized=isinstance(last, Normalize) and loaded.truncate is None,
        sha256=digest(into, text_settings),
        tokenizer_sha256=file_digest(into / "tokenizer.json"),
        check=asdict(result),
        precision=origin.precision,
        notice=origin.notice,
        versions={name: importlib.metadata.version(name) for name in packages},
        **text_settings,
    )
