"""Mixtures of experts: every expert computed, the vectors of the library."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from converters.errors import InvalidModel
from converters.graph import experts
from tests.converters.conftest import Convert
from tests.converters.graph.test_architectures import assert_everything_is_the_librarys
from tests.support.odd_models import saved
from tests.support.tiny_models import HIDDEN, decoder_sizes
from tests.support.tiny_tokenizers import VOCAB, byte_level, unigram

_SIZES = decoder_sizes(num_experts_per_tok=2)


def _mixtral() -> PreTrainedModel:
    return transformers.MixtralModel(transformers.MixtralConfig(**_SIZES, num_local_experts=5))


def _gpt_oss() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = transformers.GptOssConfig(**_SIZES, num_local_experts=4, rope_parameters=rope)
    return transformers.GptOssModel(config)


def _qwen3_moe() -> PreTrainedModel:
    config = transformers.Qwen3MoeConfig(**_SIZES, num_experts=6, moe_intermediate_size=24)
    return transformers.Qwen3MoeModel(config)


MIXTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "mixtral": _mixtral,
    "gpt_oss": _gpt_oss,
    "qwen3_moe": _qwen3_moe,
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_the_states_of_transformers(kind: str) -> None:
    torch.manual_seed(0)
    model = MIXTURES[kind]()
    model.train(mode=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(5, VOCAB, (3, 17))
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state
        assert experts.unsupported(model) is None
        experts.use_every_expert(model)
        assert model.config._experts_implementation == experts.EXPERTS
        found = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_an_expert_that_was_not_chosen_spoils_nothing() -> None:
    torch.manual_seed(0)
    model: Any = _mixtral()
    layer = model.layers[0].mlp.experts
    with torch.inference_mode():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        layer.down_proj[4] = torch.inf
        hidden, weights = torch.randn(9, HIDDEN), torch.rand(9, 2)
        chosen = torch.randint(0, 4, (9, 2))
        found = experts.every_expert(layer, hidden, chosen, weights)
        chosen[3, 1] = 4
        spoilt = experts.every_expert(layer, hidden, chosen, weights)
    assert torch.isfinite(found).all()
    assert torch.isfinite(spoilt).all(1).tolist() == [row != 3 for row in range(9)]


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        ("mixtral", "packed"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("gpt_oss", "padded"), ("qwen3_moe", "packed"))
        ),
    ],
)
def test_the_librarys_vectors(kind: str, attention: str, sources: Path, convert: Convert) -> None:
    path = saved(sources / "model", MIXTURES[kind](), byte_level(ends=True), "lasttoken")
    converted = convert("model")
    assert converted.manifest.attention == attention
    assert_everything_is_the_librarys(converted, path, within=3e-6)


def test_experts_of_another_interface_are_named(sources: Path, convert: Convert) -> None:
    config = transformers.SwitchTransformersConfig(
        vocab_size=VOCAB,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        num_experts=3,
        num_sparse_encoder_layers=1,
        pad_token_id=1,
    )
    saved(sources / "model", transformers.SwitchTransformersEncoderModel(config), unigram(ends=True))
    with pytest.raises(InvalidModel, match="SwitchTransformersExperts"):
        convert("model")
