"""Configurations of open_clip that have pretrained weights, cut in depth, with seeded random weights.

Widths, heads, sizes of images and patches, pooling, projections and preprocessing are those of open_clip.
Layers are two, or one in each stage. Tokenizers and text models, which only the Hub has, are tiny ones of the
same kind, and vocabularies are theirs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from timm.models import is_model, register_model

from tests.support import tiny_tokenizers
from tests.support.tiny_clip import TEXT_MODELS, write_clip
from tests.support.tiny_tokenizers import VOCAB

NAMES = sorted({name for name, _ in open_clip.list_pretrained()})
REPOSITORY = "cut/clip"

_LAYERS = 2
_STAGES = (1, 1, 1, 1)
_TIMM_CUTS: dict[str, dict[str, Any]] = {
    "convnext_": {"depths": _STAGES},
    "fastvit_mci3": {"layers": (*_STAGES, 1)},
    "fastvit_mci4": {"layers": (*_STAGES, 1)},
    "fastvit_": {"layers": _STAGES},
    "": {"depth": _LAYERS},
}
"""Arguments that cut a tower of timm, by the beginning of its name; the first that fits."""
_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert-": tiny_tokenizers.wordpiece,
    "roberta-": tiny_tokenizers.byte_level,
    "xlm-roberta-": tiny_tokenizers.unigram,
    "facebook/xlm-v-": tiny_tokenizers.unigram,
    "facebook/nllb-": tiny_tokenizers.nllb,
    "timm/": lambda: tiny_tokenizers.unigram(ends=True),
}
_TEXT_MODELS = {
    "roberta-": TEXT_MODELS["roberta"],
    "xlm-roberta-": TEXT_MODELS["xlm-roberta"],
    "facebook/nllb-": TEXT_MODELS["nllb"],
}
_SPREAD = 0.02
"""Noise on every weight; with more, the widest towers attend to one token only."""


def save(sources: Path, name: str) -> Path:
    """Write the architecture `name` as `hf-hub:cut/clip` below the sources, and what it names on the Hub.

    Returns:
        A directory beside the sources with the same model, which open_clip can read without the Hub.
    """
    model_cfg = open_clip.get_model_config(name)
    text, vision = model_cfg["text_cfg"], model_cfg["vision_cfg"]
    for part in (text, model_cfg.get("multimodal_cfg", {}), vision):
        if "layers" in part:
            part["layers"] = _LAYERS if isinstance(part["layers"], int) else _STAGES
    if "timm_model_name" in vision:
        vision["timm_model_name"] = _cut_of_timm(vision["timm_model_name"])
    reference, directory = sources.parent / "reference", sources / REPOSITORY
    model_name, tokenizer_name = text.get("hf_model_name"), text.get("hf_tokenizer_name")
    if tokenizer_name is not None:
        if model_name is None:
            text["vocab_size"] = VOCAB
        for place in (reference, sources / tokenizer_name):
            _first(_TOKENIZERS, tokenizer_name)().save_pretrained(place)
    if model_name is not None:
        _first(_TEXT_MODELS, model_name).save_pretrained(sources / model_name)
        text["hf_model_name"] = str(sources / model_name)
    preprocess = _preprocessing(name)
    write_clip(reference, model_cfg, preprocess, _SPREAD)
    directory.mkdir(parents=True)
    if model_name is not None:
        text["hf_model_name"] = model_name
    data = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (directory / "open_clip_config.json").write_text(json.dumps(data))
    (directory / "open_clip_model.safetensors").hardlink_to(reference / "open_clip_model.safetensors")
    return reference


def _cut_of_timm(name: str) -> str:
    """Register a cut variant of a model of timm, and return its name."""
    cut, cut_name = _first(_TIMM_CUTS, name), f"cut_{name}"

    def build(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:  # noqa: ANN401 - as timm calls
        return timm.create_model(name, pretrained=pretrained, **cut, **kwargs)

    if not is_model(cut_name):
        build.__name__ = cut_name
        register_model(build)
    return cut_name


def _first(table: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - the type of the table's values
    return next(value for start, value in table.items() if name.startswith(start))


def _preprocessing(name: str) -> dict[str, Any]:
    """Return the preprocessing of the architecture's first pretrained weights."""
    tag = get_pretrained_cfg(name, list_pretrained_tags_by_model(name)[0])
    return {key: tag[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in tag}
