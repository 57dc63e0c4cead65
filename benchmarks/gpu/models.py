"""The models of the GPU benchmark: the real MiniLM, and the shapes of others with random weights.

Random weights take the same time. Only the vectors of MiniLM mean anything.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.compare.environments import model_files
from benchmarks.loadtest.words import CONTENT_WORDS
from converters.clip.image_tower import ImageGraph
from converters.graph.sentence_graph import SentenceGraph
from converters.sentence_transformer import first_module, graph_modules, reference
from converters.sources.inspection import inspect
from converters.verification import packed_check
from converters.verification.check import Samples
from triton_models.contract.checks import ImageCheck

LONGEST = 512
MEAN_MIXED, SIGMA_MIXED = 68, 0.8
LENGTHS: dict[str, int | None] = {"32": 32, "128": 128, "512": 512, "mix, mean 68": None}
"""Tokens of the texts, special ones included; None for a log-normal mix."""

QUICK: dict[str, int] | None = {"hidden": 32, "layers": 2, "heads": 4}
SHAPES: dict[str, dict[str, int] | None] = {
    "MiniLM-L6, real": None,
    "BERT-base shape": {"hidden": 768, "layers": 12, "heads": 12},
    "BERT-large shape": {"hidden": 1024, "layers": 24, "heads": 16},
}
IMAGES = ("ViT-B-32", "ViT-L-14")


class Failed(Exception):
    """A model could not be prepared."""


@dataclass(frozen=True)
class TextModel:
    """A model of texts: for the library in `source`, and for the torch engine in `packed`."""

    source: Path
    packed: Path


def texts(kind: str, tokens: int, seed: int = 0) -> list[str]:
    """Return texts of one kind of `LENGTHS`, with about so many tokens together."""
    choice = np.random.default_rng(seed)
    fixed = LENGTHS[kind]
    mean = fixed or MEAN_MIXED
    number = max(4, tokens // mean)
    normal = choice.normal(np.log(mean) - SIGMA_MIXED**2 / 2, SIGMA_MIXED, number)
    lengths = np.full(number, fixed) if fixed else np.exp(normal).round().clip(3, LONGEST).astype(int)
    # Each word is one token, and there are two special ones.
    return [" ".join(choice.choice(CONTENT_WORDS, length - 2)) for length in lengths]


def source(shape: dict[str, int] | None, directory: Path) -> Path:
    """Write a model with random weights and MiniLM's tokenizer, and return it; None returns MiniLM itself."""
    if shape is None:
        return model_files()
    shutil.copytree(
        model_files(), directory, ignore=shutil.ignore_patterns("*.bin", "*.safetensors", "*.onnx")
    )
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        intermediate_size=4 * shape["hidden"],
    )
    BertModel(config).save_pretrained(directory)
    pooling = directory / "1_Pooling" / "config.json"
    settings = {**json.loads(pooling.read_text()), "word_embedding_dimension": shape["hidden"]}
    pooling.write_text(json.dumps(settings))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST}))
    return directory


def pack(found: Path, into: Path) -> TextModel:
    """Write the files of the torch engine for the model in `found`, without an ONNX graph.

    Raises:
        Failed: The model does not pack.
    """
    into.mkdir(parents=True)
    layout = inspect(found, trust_remote_code=False)
    loaded = reference.load(found, layout, trust_remote_code=False)
    few = texts("128", 5 * 128)
    ids = [np.array(loaded.first.tokenizer(text)["input_ids"]) for text in few]
    # The library computes before its model gets the packed attention.
    samples = Samples(few, ids, loaded.encode(few), None)
    tails, _ = graph_modules.after_first(loaded)
    first: Any = first_module.transformer(loaded, "packed", layers=False)
    graph = SentenceGraph(first, tails, loaded.truncate, prompt_flag=False).eval()
    vocab_size = first_module.vocab_size(loaded)
    reason = packed_check.write_texts(
        graph,
        first.model,
        samples,
        vocab_size,
        [LONGEST],
        into,
        "fp16",
        lambda _share, _message: None,
    )
    if reason is not None:
        raise Failed(reason)
    return TextModel(found, into)


def pack_images(name: str, into: Path, *, quick: bool) -> tuple[ImageGraph, int]:
    """Write the files of the torch engine for open_clip's image tower `name`, with random weights.

    Returns:
        The tower in fp32, and the height of its images, which is their width.

    Raises:
        Failed: The tower cannot be exported.
    """
    from converters.torchvision_shim import make_importable

    make_importable()
    import open_clip

    into.mkdir(parents=True)
    torch.manual_seed(0)
    config: dict[str, Any] = open_clip.get_model_config(name)
    # The text tower is not used, and a small one takes no time.
    text = {**config["text_cfg"], "layers": 1}
    vision = {**config["vision_cfg"], **({"layers": 2, "width": 64} if quick else {})}
    model: Any = open_clip.CLIP(config["embed_dim"], vision, text)
    graph = ImageGraph(model.visual, (0.5,) * 3, (0.25,) * 3, normalize=True).eval()
    height = int(vision["image_size"])
    images = np.random.default_rng(0).integers(0, 256, (2, height, height, 3), dtype=np.uint8)
    with torch.inference_mode():
        vectors = graph(torch.from_numpy(images)).numpy()
    reason = packed_check.write_images(graph, graph.visual, ImageCheck(images, vectors), into)
    if reason is not None:
        raise Failed(reason)
    return graph, height
