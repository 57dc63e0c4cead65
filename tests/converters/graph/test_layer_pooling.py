"""WeightedLayerPooling: the mean of a token's vectors in the layers of a transformer."""

import json
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling
from torch import nn

from converters.errors import InvalidModel
from tests.converters.conftest import Convert
from tests.converters.graph.test_architectures import assert_everything_is_the_librarys, assert_same_vectors
from tests.support.odd_models import saved
from tests.support.tiny_models import ARCHITECTURES, HIDDEN

LAYERS = 2


def layer_pooling(path: Path, architecture: str = "bert", start: int = 1, *, layers: bool = True) -> Path:
    """Save a model with the module; `layers` says whether the transformer gives its hidden states."""
    weights = nn.Parameter(torch.tensor([0.5, 2.0, -0.7][start:]))
    backbone, tokenizer = ARCHITECTURES[architecture]()
    if layers:
        backbone.config.output_hidden_states = True
    after = [WeightedLayerPooling(HIDDEN, LAYERS, start, weights), Pooling(HIDDEN, "mean")]
    return saved(path, backbone, tokenizer, after)


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [("bert", "packed"), ("t5", "padded"), pytest.param("modernbert", "packed", marks=pytest.mark.slow)],
)
def test_the_librarys_vectors(architecture: str, attention: str, sources: Path, convert: Convert) -> None:
    path = layer_pooling(sources / "model", architecture, start=0)
    converted = convert("model")
    assert converted.manifest.attention == attention
    assert converted.manifest.notice is None
    assert_everything_is_the_librarys(converted, path, within=2e-6)


def test_layers_that_the_transformer_does_not_give_are_passed_over(sources: Path, convert: Convert) -> None:
    path = layer_pooling(sources / "model", layers=False)
    converted = convert("model")
    assert "output_hidden_states" in str(converted.manifest.notice)
    assert_same_vectors(converted, SentenceTransformer(str(path), device="cpu"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 10**12}, "asks for 999,999,999,999 weights"),
        ({"layer_weights": [1.0]}, "layer_weights"),
        ({"layer_start": -1}, "numbers of layers"),
        ({"layer_start": "1"}, "numbers of layers"),
        ({"num_hidden_layers": 3}, "cannot load"),
    ],
)
def test_a_broken_configuration(
    changes: dict[str, object], named: str, sources: Path, convert: Convert
) -> None:
    config = layer_pooling(sources / "model") / "1_WeightedLayerPooling" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(InvalidModel, match=named):
        convert("model")
