"""Tiny CLIP models of every kind, with seeded random weights, in the layout of a source directory."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import M2M100Config, PreTrainedConfig, RobertaConfig, XLMRobertaConfig

from tests.support.tiny_tokenizers import VOCAB

VIT: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
RESNET: dict[str, Any] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
COCA: dict[str, Any] = {
    "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    "custom_text": True,
}

_BERT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 90,
    "pad_token_id": 1,
}
_M2M_100: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    **{f"{part}_layers": 2 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 64 for part in ("encoder", "decoder")},
}
TEXT_MODELS: dict[str, PreTrainedConfig] = {
    "roberta": RobertaConfig(**_BERT),
    "xlm-roberta": XLMRobertaConfig(**_BERT),
    "nllb": M2M100Config(**_M2M_100),
}
"""Models of transformers that text towers are made of."""


def config(**parts: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of open_clip's model_cfg
    """Return open_clip's `model_cfg`; by default with a causal text tower and a vision transformer."""
    return {"embed_dim": 16, "text_cfg": TEXT, "vision_cfg": VIT, **parts}


def write_clip(
    directory: Path,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any] | None = None,
    spread: float = 0.1,
) -> None:
    """Write `open_clip_config.json` and weights of the model `hf-hub:...`; other files (a tokenizer) stay.

    Args:
        directory: The model's name without the prefix `hf-hub:`, below the sources.
        model_cfg: Of open_clip.
        preprocess_cfg: Of open_clip; empty by default.
        spread: Standard deviation of the noise added to every weight.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg or {}}
    (directory / "open_clip_config.json").write_text(json.dumps(data))
    model = random_model(f"local-dir:{directory}", spread)
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, directory / "open_clip_model.safetensors")


def write_checkpoint(path: Path, model_name: str) -> None:
    """Write seeded random weights of one of open_clip's architectures with `torch.save`."""
    torch.save(random_model(model_name).state_dict(), path)


def random_model(name: str, spread: float = 0.0) -> torch.nn.Module:
    """Return a model with open_clip's initial weights plus noise; without it, a lost bias has no effect."""
    torch.manual_seed(7)
    model: torch.nn.Module = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    model.eval()
    return model
