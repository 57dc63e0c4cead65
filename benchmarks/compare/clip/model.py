"""The model of the CLIP comparison: a real ViT-B-32 with seeded random weights, in three forms.

    sources/ViT-B-32.pt   a checkpoint, as `torch.save` writes it; our server loads it by /load_clip_model
    transformers/         the same weights as a CLIPModel of transformers, for infinity-emb
    fixed77.onnx          the text tower as usually exported: INT64 [batch, 77] in, FP32 [batch, 512] out

Real weights would have to come from a hub; a tower of the same shape takes the same time.

Usage: python -m benchmarks.compare.clip.model DIRECTORY, in the project's environment.
"""

import json
import sys
from pathlib import Path
from typing import Any

from converters.torchvision_shim import make_importable

make_importable()

import open_clip  # noqa: E402 - torchvision comes first
import torch  # noqa: E402
from open_clip.tokenizer import SimpleTokenizer  # noqa: E402
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel  # noqa: E402

NAME, CHECKPOINT = "ViT-B-32", "ViT-B-32.pt"
SEED = 7
LAYERS = 12
CONTEXT = 77
_HF_SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}

State = dict[str, torch.Tensor]

__all__ = ["CHECKPOINT", "NAME", "open_clip", "torch"]  # importable after the above


def write_checkpoint(path: Path) -> None:
    """Write the weights with which open_clip begins its training."""
    torch.manual_seed(SEED)
    model = open_clip.create_model(NAME, load_weights=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)


def write_transformers(model: Any, directory: Path) -> None:  # noqa: ANN401 - open_clip has no annotations
    """Write the same model for transformers, with its tokenizer and image processor."""
    text = {"hidden_act": "gelu", "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {"hidden_act": "gelu"}
    twin = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512))
    twin.load_state_dict(renamed(model.state_dict()))
    directory.mkdir(parents=True, exist_ok=True)
    twin.save_pretrained(directory)
    # infinity-emb truncates texts at `max_length`, for which transformers 4 has a default of 20.
    saved = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**saved, "max_length": CONTEXT}), encoding="utf-8")
    CLIPImageProcessor().save_pretrained(directory)
    tokenizer = SimpleTokenizer()
    vocabulary = {_HF_SPECIAL.get(token, token): number for token, number in tokenizer.encoder.items()}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    special |= {"bos_token": "<|startoftext|>", "tokenizer_class": "CLIPTokenizer"}
    written = json.dumps({**special, "model_max_length": CONTEXT})
    (directory / "tokenizer_config.json").write_text(written, encoding="utf-8")


def renamed(state: State) -> State:
    """Return open_clip's weights under the names of transformers."""
    made = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T,
        "visual_projection.weight": state["visual.proj"].T,
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    norms = {
        "text_model.final_layer_norm": "ln_final",
        # transformers has this misspelling.
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
    }
    for layer in range(LAYERS):
        for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
            ours, theirs = f"{prefix}transformer.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
            norms |= {
                f"{theirs}.{name}": f"{ours}.{old}"
                for name, old in (
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                    ("self_attn.out_proj", "attn.out_proj"),
                )
            }
            for part in ("weight", "bias"):
                joint = state[f"{ours}.attn.in_proj_{part}"].chunk(3)
                for name, values in zip("qkv", joint, strict=True):
                    made[f"{theirs}.self_attn.{name}_proj.{part}"] = values
    for theirs, ours in norms.items():
        made |= {f"{theirs}.{part}": state[f"{ours}.{part}"] for part in ("weight", "bias")}
    return {name: value.contiguous().clone() for name, value in made.items()}


class FixedText(torch.nn.Module):
    """The text tower of a CLIP model alone."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - as above
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the vectors, FP32 [batch, D], of token ids, INT64 [batch, 77]."""
        vectors: torch.Tensor = self.model.encode_text(input_ids)
        return vectors


def write_fixed_text(model: Any, path: Path) -> None:  # noqa: ANN401 - as above
    """Write the ordinary export of the text tower, in which every text has all 77 tokens."""
    ids = torch.zeros((2, CONTEXT), dtype=torch.int64)
    ids[:, 0], ids[:, 5] = 49406, 49407
    program = torch.onnx.export(
        FixedText(model).eval(),
        (ids,),
        dynamo=True,
        input_names=["input_ids"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    program.save(str(path))


def main(directory: Path) -> None:
    """Make the checkpoint if it is missing, and its other forms."""
    checkpoint = directory / "sources" / CHECKPOINT
    if not checkpoint.is_file():
        write_checkpoint(checkpoint)
    model = open_clip.create_model(NAME, pretrained=str(checkpoint)).eval()
    write_transformers(model, directory / "transformers")
    write_fixed_text(model, directory / "fixed77.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
