"""The text side of CLIP models in sentence-transformers: `CLIPModel`, and `Transformer` with a CLIP model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CLIPModel, Normalize, Transformer
from transformers import PreTrainedTokenizerFast

from tests.converters.conftest import Convert
from tests.converters.graph.test_architectures import (
    TEXTS,
    assert_same_vectors,
    assert_texts_are_kept_apart,
)
from tests.support.tiny_models import HIDDEN
from tests.support.tiny_tokenizers import VOCAB, byte_level, wordpiece

DIMENSIONS = 16


def clip(path: Path, tokenizer: PreTrainedTokenizerFast, end_id: int, kind: type[Transformer]) -> Path:
    """Save a model to `path`, with `end_id` as its end-of-text token, and return the path."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "projection_dim": DIMENSIONS}
    ends = {"vocab_size": VOCAB, "max_position_embeddings": 77, "eos_token_id": end_id, "bos_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={**sizes, **ends, "pad_token_id": 1},
        vision_config={**sizes, "image_size": 32, "patch_size": 16},
        projection_dim=DIMENSIONS,
    )
    model = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    raw = path.parent / f".{path.name}.transformer"
    model.save_pretrained(raw)
    tokenizer.model_max_length = 77
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = transformers.CLIPProcessor(images, tokenizer)  # type: ignore[no-untyped-call]
    processor.save_pretrained(raw)
    modules = [kind(str(raw)), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(path), create_model_card=False)
    return path


@pytest.mark.parametrize(
    ("kind", "end_id"),
    [(CLIPModel, 3), pytest.param(Transformer, 2, marks=pytest.mark.slow)],
    ids=["its id", "the largest id"],
)
def test_the_librarys_vectors(kind: type[Transformer], end_id: int, sources: Path, convert: Convert) -> None:
    # transformers takes the largest id for the end of text, if the configuration says 2.
    path = clip(sources / "model", wordpiece() if end_id == 3 else byte_level(), end_id, kind)
    converted = convert("model")
    manifest = converted.manifest
    assert (manifest.attention, manifest.dimensions, manifest.token_dimensions) == (
        "packed",
        DIMENSIONS,
        None,
    )
    assert "images, which are not served" in str(manifest.notice)
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(TEXTS, batch_size=1)
    rows = [converted.ids(text) for text in TEXTS]
    np.testing.assert_allclose(converted.embed(rows), expected, atol=2e-6)
    assert_same_vectors(converted, reference)
    assert_texts_are_kept_apart(converted)
