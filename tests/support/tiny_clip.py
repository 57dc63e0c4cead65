"""Tiny CLIP models of every kind, with seeded random weights, as a source directory holds them."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

VIT: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
RESNET: dict[str, Any] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
COCA: dict[str, Any] = {
    "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    "custom_text": True,
}


def config(**parts: Any) -> dict[str, Any]:  # noqa: ANN401 - parts of open_clip's model_cfg
    """open_clip's `model_cfg`: a causal text tower and a vision transformer unless told otherwise."""
    return {"embed_dim": 16, "text_cfg": TEXT, "vision_cfg": VIT, **parts}


def write_clip(
    directory: Path,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any] | None = None,
    spread: float = 0.1,
) -> None:
    """Write `open_clip_config.json` and weights; the directory of the name `hf-hub:...` without its prefix.

    Files that are there already (a tokenizer) stay. spread: of what is added to every weight.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg or {}}
    (directory / "open_clip_config.json").write_text(json.dumps(data))
    model = random_model(f"local-dir:{directory}", spread)
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, directory / "open_clip_model.safetensors")


def write_checkpoint(path: Path, model_name: str) -> None:
    """Write seeded random weights of one of open_clip's architectures, as `torch.save` does it."""
    torch.save(random_model(model_name).state_dict(), path)


def random_model(name: str, spread: float = 0.0) -> torch.nn.Module:
    """As open_clip begins its training; without spread a lost bias would make no difference."""
    torch.manual_seed(7)
    model: torch.nn.Module = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    model.eval()
    return model
