"""Tiny CLIP models of every kind: both towers give open_clip's vectors."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from numpy.typing import NDArray

from converters.clip.check_texts import CLIP_EDGE_TEXTS
from converters.verification.check_texts import EDGE_TEXTS
from tests.support import tiny_tokenizers
from tests.support.clip_conversion import ConvertedClip, OpenClip, convert_clip
from tests.support.planted import LENGTHS, assert_all_kept_apart
from tests.support.tiny_clip import COCA, RESNET, TEXT, TEXT_MODELS, VIT, config, write_checkpoint, write_clip
from triton_models.contract.accuracy import cosines
from triton_models.contract.config import from_text

CAPTIONS = [
    "a photo of a cat",
    "two dogs running under a bridge, in black and white",
    "a",
    "",
    "a red car on snow " * 12,
    "Ã¼ber &amp;amp; \U0001f436   it's",
    "a <end_of_text> typed by someone",
]
SIGLIP_TEXT = {
    "context_length": 16,
    "vocab_size": tiny_tokenizers.VOCAB,
    "width": 32,
    "heads": 2,
    "layers": 2,
    "hf_tokenizer_name": "tiny/tokenizer",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "act_kwargs": {"approximate": "tanh"},
}
SIGLIP_VISION = {
    "image_size": 160,
    "timm_model_name": "test_vit",
    "timm_model_pretrained": False,
    "timm_pool": "map",
    "timm_proj": "none",
}
CLIPA_TEXT = {
    **SIGLIP_TEXT,
    "tokenizer_kwargs": {"strip_sep_token": True},
    "proj_bias": False,
}
ROBERTA_TEXT = {
    "hf_model_name": "tiny/roberta",
    "hf_tokenizer_name": "tiny/roberta",
    "hf_proj_type": "mlp",
    "hf_pooler_type": "mean_pooler",
}
NLLB_TEXT = {
    "hf_model_name": "tiny/nllb",
    "hf_tokenizer_name": "tiny/nllb",
    "hf_proj_type": "linear",
    "hf_pooler_type": "cls_pooler",
}


@dataclass(frozen=True)
class Kind:
    """How a model is made, and how its text tower must come out."""

    model_cfg: dict[str, Any]
    attention: str
    fixed_length: int | None
    cleaning: str = "lower"
    preprocess_cfg: dict[str, Any] | None = None
    tokenizer: Callable[[], Any] | None = None
    spread: float = 0.1


QUICK = ("vit", "siglip")
"""The kinds of the quick suite; each takes some seconds."""

KINDS = {
    "vit": Kind(config(), "packed", None),
    "quickgelu, other sizes": Kind(
        config(
            quick_gelu=True,
            text_cfg={**TEXT, "context_length": 20, "ls_init_value": 0.3, "mlp_ratio": 2.0},
            vision_cfg={**VIT, "image_size": [32, 48], "pool_type": "avg", "ls_init_value": 0.3},
        ),
        "packed",
        None,
        preprocess_cfg={"mean": [0.5] * 3, "std": [0.4, 0.5, 0.6], "resize_mode": "squash"},
    ),
    "eos pooling, custom text": Kind(
        config(custom_text=True, text_cfg={**TEXT, "pool_type": "eos", "eos_id": 49407, "proj_bias": True}),
        "packed",
        None,
    ),
    "resnet": Kind(config(vision_cfg=RESNET), "packed", None, spread=0.3),
    "mobileclip": Kind(config(custom_text=True, text_cfg={**TEXT, "no_causal_mask": True}), "padded", 77),
    "siglip": Kind(
        config(
            embed_dim=64,
            custom_text=True,
            init_logit_bias=-10,
            text_cfg=SIGLIP_TEXT,
            vision_cfg=SIGLIP_VISION,
        ),
        "padded",
        16,
        "canonicalize",
        {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
        lambda: tiny_tokenizers.unigram(ends=True),
    ),
    "clipa": Kind(
        config(text_cfg=CLIPA_TEXT), "padded", 16, "whitespace", tokenizer=tiny_tokenizers.wordpiece
    ),
    "coca": Kind(config(**COCA), "padded", 76),
    "custom blocks": Kind(config(text_cfg={**TEXT, "qk_norm": True}), "padded", 77),
    "text model of transformers": Kind(
        config(text_cfg=ROBERTA_TEXT), "padded", None, "whitespace", tokenizer=tiny_tokenizers.byte_level
    ),
    "nllb": Kind(config(text_cfg=NLLB_TEXT), "padded", None, "whitespace", tokenizer=tiny_tokenizers.nllb),
}


def make(sources: Path, kind: Kind) -> Path:
    """Write the model `hf-hub:tiny/clip` and what it names; the directory that open_clip can read itself."""
    directory, reference = sources / "tiny" / "clip", sources.parent / "reference"
    if kind.tokenizer is not None:
        kind.tokenizer().save_pretrained(reference)
    model_cfg = json.loads(json.dumps(kind.model_cfg))
    if "hf_model_name" in model_cfg["text_cfg"]:
        companion = sources / model_cfg["text_cfg"]["hf_model_name"]
        TEXT_MODELS[companion.name].save_pretrained(companion)
        model_cfg["text_cfg"]["hf_model_name"] = str(companion)
    write_clip(reference, model_cfg, kind.preprocess_cfg, kind.spread)
    shutil.copytree(reference, directory)
    # open_clip would look for this name on the Hub; the converter looks into its sources.
    data = {"model_cfg": kind.model_cfg, "preprocess_cfg": kind.preprocess_cfg}
    (directory / "open_clip_config.json").write_text(json.dumps(data))
    return reference


def assert_same_ids(converted: ConvertedClip, reference: OpenClip) -> None:
    for text in (*CAPTIONS, *CLIP_EDGE_TEXTS, *EDGE_TEXTS):
        expected, ids = reference.ids(text), converted.ids(text)
        assert 0 < len(ids) <= len(expected)
        # CLIPA's tokenizer takes its separator out of the ids; here the graph does.
        shown = [0 if expected[place] == 0 else number for place, number in enumerate(ids)]
        padding = [converted.text.pad_id] * (len(expected) - len(ids))
        assert shown + padding == expected, ascii(text)


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert cosines(found, expected).min() >= 0.99999


def assert_captions_are_kept_apart(converted: ConvertedClip) -> None:
    """A text whose vector is not finite changes no other one's by a bit, on any engine."""
    text = converted.text
    lengths: tuple[int, ...] = LENGTHS
    if text.max_seq_length is not None:
        lengths = tuple(text.fixed_length or min(length, text.max_seq_length) for length in LENGTHS)
    assert text.planted_id is not None
    model = converted.text_directory / "model.onnx"
    assert_all_kept_apart(model, text.planted_id, text.vocab_size, lengths)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in KINDS]
)
def test_both_towers_give_open_clip_s_vectors(name: str, sources: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    directory = make(sources, kind)
    converted = convert_clip(tmp_path, "hf-hub:tiny/clip")
    reference = OpenClip(directory)
    text, image = converted.text, converted.image
    assert (text.attention, text.fixed_length, text.text_cleaning) == (
        kind.attention,
        kind.fixed_length,
        kind.cleaning,
    )
    assert_same_ids(converted, reference)
    expected = reference.texts(CAPTIONS)
    # Texts that differ clearly: else the comparison would see nothing.
    assert cosines(expected[:1], expected[1:2])[0] < 0.99
    assert_same(converted.embed(CAPTIONS), expected)
    assert_same(np.concatenate([converted.embed([caption]) for caption in CAPTIONS]), expected)
    images = converted.images(3)
    vectors = reference.images(images)
    assert cosines(vectors[:1], vectors[1:2])[0] < 0.99
    assert_same(converted.image_engine.run(images), vectors)
    assert_same(converted.image_engine.run(images[:1]), vectors[:1])
    assert_captions_are_kept_apart(converted)
    assert text.dimensions == image.dimensions == expected.shape[1] == vectors.shape[1]
    assert min(text.check["min_cosine"], image.check["min_cosine"]) >= 0.9999
    # CoCa alone gives vectors of unit length where it is not asked to.
    assert (text.normalized, image.normalized) == ((name == "coca"),) * 2


@pytest.mark.slow
def test_a_pair_is_one_model(sources: Path, tmp_path: Path) -> None:
    write_clip(sources / "tiny" / "clip", config(), {"interpolation": "bilinear", "fill_color": 7})
    converted = convert_clip(tmp_path, "hf-hub:tiny/clip")
    text, image = converted.text, converted.image
    assert converted.names.text == "hf-hub_tiny_clip_text_encoder"
    assert (text.tower, image.tower) == ("text", "image")
    assert text.pair == image.pair
    assert (text.model_name, text.pretrained, text.library) == ("hf-hub:tiny/clip", "", "open_clip")
    assert image.image is not None
    assert (image.image.height, image.image.width) == (32, 32)
    assert (image.image.interpolation, image.image.fill_color) == ("bilinear", 7)
    assert image.image.resize_mode == "shortest"
    assert not (converted.image_directory / "tokenizer.json").exists()
    kept = converted.repository.load_image_check(converted.names.image)
    assert kept.images.shape == (6, 32, 32, 3)
    np.testing.assert_allclose(converted.image_engine.run(kept.images), kept.embeddings, atol=1e-5)
    text_kept = converted.repository.load_check(converted.names.text)
    found = converted.text_engine.run(text_kept.input_ids, text_kept.lengths)
    np.testing.assert_allclose(found, text_kept.embeddings, atol=1e-5)
    settings = from_text((converted.image_directory.parent / "config.pbtxt").read_text())
    assert (settings.input[0].name, list(settings.input[0].dims)) == ("image", [32, 32, 3])
    graph = (converted.image_directory / "model.onnx").read_bytes()
    assert str(tmp_path).encode() not in graph
    # Captions take their own length.
    lengths = [len(converted.ids(caption)) for caption in ("", "a photo of a cat", "word " * 200)]
    assert lengths == [2, 7, 77]
    # The same source converts to the same pair; other weights to another.
    again = convert_clip(tmp_path, "hf-hub:tiny/clip")
    assert (again.text.version, again.image.version) == (text.version, image.version)


@pytest.mark.slow
def test_a_checkpoint_file_of_an_architecture_of_open_clip(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Tiny-CLIP.json"
    path.write_text(json.dumps(config()))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [path])
    open_clip.factory._rescan_model_configs()
    write_checkpoint(sources / "weights.pt", "Tiny-CLIP")
    converted = convert_clip(tmp_path, "Tiny-CLIP", "weights.pt")
    assert converted.names.image == "Tiny-CLIP_weights.pt_image_encoder"
    assert converted.text.source.kind == "file"
    assert not converted.text.source.has_changed()
    (sources / "weights.pt").write_bytes(b"")
    assert converted.text.source.has_changed()
