"""Conversion of one CLIP model, from the parts that `source.find` found to the files of its two towers.

Independent of where the parts came from and where the files go.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.clip import image_tower as clip_image
from converters.clip.check_texts import CLIP_ALWAYS, clip_texts
from converters.clip.image_tower import ImageGraph
from converters.clip.reference import ClipReference, encode
from converters.clip.text_tower import TextPlan, packed, unpacked, word_table
from converters.content_hash import digest, file_digest
from converters.errors import CheckFailed, InvalidModel, describe
from converters.graph import onnx_export, torch_export
from converters.graph.sentence_graph import plant
from converters.graph.varlen import CannotPack
from converters.progress import Progress, part
from converters.verification import engine_check, packed_check
from converters.verification.check import CheckResult
from converters.verification.samples import KEPT_TOKENS, Samples, save
from triton_models.contract.accuracy import LEAST_COSINE, Precision, cosines
from triton_models.contract.checks import ImageCheck
from triton_models.contract.manifest import Manifest, Source, pair_digest

_TRIAL_TEXTS = 10
_PACKAGES = ("torch", "open_clip_torch", "timm", "transformers", "tokenizers", "onnx", "onnxruntime")


@dataclass(frozen=True)
class ClipOrigin:
    """Facts about a model that the caller knows and the conversion records."""

    model_name: str
    pretrained: str
    source: Source
    precision: Precision = "fp32"


@dataclass(frozen=True)
class _Tower:
    """One converted tower; `settings` are the manifest's fields that are specific to it."""

    result: CheckResult
    dimensions: int
    sha256: str
    settings: dict[str, Any]


def build(
    reference: ClipReference, origin: ClipOrigin, text: Path, image: Path, threads: int, progress: Progress
) -> tuple[Manifest, Manifest]:
    """Convert both towers.

    Args:
        reference: The loaded model.
        origin: Facts that are recorded.
        text: Existing directory for the text tower's files.
        image: Existing directory for the image tower's files.
        threads: Threads of the engine in the check; the number that will serve.
        progress: Receiver of the steps.

    Returns:
        The manifests of the text tower and the image tower.

    Raises:
        InvalidModel: The model is of a kind that cannot be converted, or cannot be exported.
        CheckFailed: A converted tower does not give the reference's vectors.
        OSError: The disk is full.
    """
    torch_too = packed_check.is_wanted(origin.precision)
    text_tower = _build_text(reference, text, threads, progress, torch_too=torch_too)
    image_tower = _build_image(reference, image, threads, progress, torch_too=torch_too)
    pair = pair_digest(text_tower.sha256, image_tower.sha256)
    # Each hash covers both towers, so that no version of a tower belongs to two pairs: several versions of a
    # tower can exist side by side.
    text_tower, image_tower = (
        replace(tower, sha256=hashlib.sha256(f"{tower.sha256} {pair}".encode()).hexdigest())
        for tower in (text_tower, image_tower)
    )
    manifests = []
    for directory, tower in ((text, text_tower), (image, image_tower)):
        manifest = _manifest(origin, tower, pair)
        (directory / "model.json").write_text(manifest.to_json(), encoding="utf-8")
        manifests.append(manifest)
    least = min(tower.result.min_cosine for tower in (text_tower, image_tower))
    progress.step("verify", 1.0, f"Verified: cosine to the reference at least {least:.6f}")
    return manifests[0], manifests[1]


def _build_text(
    reference: ClipReference, into: Path, threads: int, progress: Progress, *, torch_too: bool
) -> _Tower:
    tokenizer = reference.tokenizer
    texts = clip_texts()
    tokenizer.check_same(texts)
    filled = np.stack([tokenizer.filled(text) for text in texts])
    if tokenizer.separator is not None:
        filled[filled == tokenizer.separator] = 0
    report = part(progress, "convert", 0.1, 0.3, "check texts")
    vectors = encode(reference.encode_texts, filled, CLIP_ALWAYS, report)
    planted_id = plant(reference.model, word_table(reference.model))
    texts = texts[: len(vectors)]
    ids = [tokenizer.ids(text) for text in texts]
    samples = Samples(texts, ids, vectors, None, planted_id=planted_id, always=CLIP_ALWAYS)
    path = into / "model.onnx"
    plan, result, samples = _convert_text(reference, samples, path, threads, progress)
    if torch_too:
        _add_torch(plan, reference, samples, into, progress)
    tokenizer.tokenizer.save(str(into / "tokenizer.json"))
    save(samples, into / "check.npz")
    settings = {
        "vocab_size": _vocab_size(reference),
        "planted_id": planted_id,
        "max_seq_length": tokenizer.context_length,
        "max_characters": tokenizer.max_characters,
        "add_special_tokens": True,
        "attention": "packed" if plan.how == "packed" else "padded",
        "attention_reason": plan.reason,
        "normalized": reference.text_unit,
        "tower": "text",
        "text_cleaning": tokenizer.cleaning,
        "fixed_length": plan.fixed_length,
        "pad_id": tokenizer.pad_id,
    }
    sha256 = digest(into, settings)
    settings["tokenizer_sha256"] = file_digest(into / "tokenizer.json")
    return _Tower(result, vectors.shape[1], sha256, settings)


def _convert_text(
    reference: ClipReference, samples: Samples, path: Path, threads: int, progress: Progress
) -> tuple[TextPlan, CheckResult, Samples]:
    """Export and verify; use another graph if the packed one is wrong or cannot be exported."""
    plan = packed(reference.model, normalize=reference.text_unit)
    if plan is not None:
        try:
            _try(plan, samples)
            return plan, _export_text(plan, reference, samples, path, threads, progress), samples
        except (InvalidModel, CheckFailed) as error:
            reason = f"; packed was tried and failed: {error}"
    else:
        reason = ""
    tokenizer = reference.tokenizer
    plan = unpacked(
        reference.model, tokenizer.context_length, tokenizer.separator, normalize=reference.text_unit
    )
    plan = replace(plan, reason=plan.reason + reason)
    if plan.fixed_length is not None:
        samples = replace(samples, ids=[tokenizer.filled(text) for text in samples.texts])
    return plan, _export_text(plan, reference, samples, path, threads, progress), samples


def _try(plan: TextPlan, samples: Samples) -> None:
    """Run a trial batch in torch, before the minutes of exporting and checking.

    Raises:
        CheckFailed: The vectors differ from the reference's.
        InvalidModel: The graph cannot be computed.
    """
    rows = samples.spread(_TRIAL_TEXTS, KEPT_TOKENS)
    ids, lengths = (torch.from_numpy(array) for array in samples.batch(rows))
    try:
        with torch.inference_mode():
            vectors = plan.graph(ids, lengths.unsqueeze(1)).numpy()
    except (*onnx_export.ERRORS, CannotPack) as error:
        raise InvalidModel(describe(error)) from error
    least = float(cosines(vectors, samples.vectors[rows]).min())
    if not least >= LEAST_COSINE:
        raise CheckFailed(f"it gives other vectors than the reference (cosine {least:.4f})")


def _export_text(
    plan: TextPlan, reference: ClipReference, samples: Samples, path: Path, threads: int, progress: Progress
) -> CheckResult:
    progress.step("convert", 0.3, f"Exporting the text tower, {plan.how}: {plan.reason}")
    lengths = onnx_export.UNLIKE_LENGTHS if plan.fixed_length is None else (plan.fixed_length,) * 3
    _export(lambda: onnx_export.trace(plan.graph, _vocab_size(reference), lengths), path)
    progress.step("verify", 0.0, "Measuring the engines for the text tower")
    return engine_check.verify(samples, path, threads, "fp32", part(progress, "verify", 0.05, 0.5))


def _add_torch(
    plan: TextPlan, reference: ClipReference, samples: Samples, into: Path, progress: Progress
) -> None:
    """Write the files of the torch engine, or the reason why there are none."""
    if plan.how != "packed":
        torch_export.refuse(f"its attention is not packed: {plan.reason}", into)
        return
    limits = [reference.tokenizer.context_length]
    report = part(progress, "verify", 0.5, 0.5)
    packed_check.write_texts(
        plan.graph, plan.graph, samples, _vocab_size(reference), limits, into, "fp32", report
    )


def _build_image(
    reference: ClipReference, into: Path, threads: int, progress: Progress, *, torch_too: bool
) -> _Tower:
    shape = reference.preprocessing
    images = np.stack(clip_image.check_images(shape.height, shape.width, reference.resized))
    report = part(progress, "convert", 0.5, 0.8, "check images")
    vectors = encode(reference.encode_images, images, clip_image.ALWAYS, report)
    preprocess = reference.preprocess
    graph = ImageGraph(
        reference.model.visual, preprocess.mean, preprocess.std, normalize=reference.image_unit
    )
    progress.step("convert", 0.8, "Exporting the image tower")
    path = into / "model.onnx"
    _export(lambda: onnx_export.trace_images(graph.eval(), shape.height, shape.width), path)
    progress.step("verify", 0.5, "Measuring the engines for the image tower")
    images_check = ImageCheck(images[: len(vectors)], vectors)
    result = clip_image.verify(images_check, path, threads, part(progress, "verify", 0.6, 1.0))
    if torch_too:
        packed_check.write_images(graph, graph.visual, images_check, into)
    kept = clip_image.kept(images_check)
    np.savez(into / "check.npz", images=kept.images, embeddings=kept.embeddings)
    settings = {
        "vocab_size": 0,
        "max_seq_length": None,
        "add_special_tokens": False,
        "attention": "none",
        "attention_reason": "all images of a model are of one size",
        "normalized": reference.image_unit,
        "tower": "image",
        "image": shape,
    }
    return _Tower(result, vectors.shape[1], digest(into, {**settings, "image": asdict(shape)}), settings)


def _export(trace: Callable[[], torch.onnx.ONNXProgram], path: Path) -> None:
    try:
        program = trace()
    except onnx_export.ERRORS as error:
        raise InvalidModel(f"the model cannot be exported to ONNX: {describe(error)}") from error
    onnx_export.write(program, path)


def _vocab_size(reference: ClipReference) -> int:
    return int(getattr(reference.model, "vocab_size", 0) or reference.model.text.vocab_size)


def _manifest(origin: ClipOrigin, tower: _Tower, pair: str) -> Manifest:
    return Manifest(
        model_name=origin.model_name,
        revision=None,
        source=origin.source,
        dimensions=tower.dimensions,
        sha256=tower.sha256,
        check=asdict(tower.result),
        versions={name: importlib.metadata.version(name) for name in _PACKAGES},
        library="open_clip",
        pretrained=origin.pretrained,
        pair=pair,
        **tower.settings,
    )
