"""References whose vectors depend on what they embedded before: they are refused, whatever the order."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from converters.errors import InvalidModel
from converters.sentence_transformer import reference, reference_calls
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from converters.verification.budget import SECONDS, Budget
from converters.verification.check_texts import check_texts
from tests.converters.sentence_transformer.test_options import opened
from tests.support.tiny_models import transformer_model
from tests.support.tiny_tokenizers import VOCAB, unigram

BIG_BIRD: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 1024,
    "block_size": 16,
    "num_random_blocks": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def big_bird(path: Path, **changes: object) -> Path:
    """A BigBird, sparse beyond 112 tokens until it meets a shorter text."""
    torch.manual_seed(0)
    backbone = transformers.BigBirdModel(transformers.BigBirdConfig(**{**BIG_BIRD, **changes}))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    tokenizer = unigram()
    tokenizer.model_max_length = 1000
    for part in (backbone, tokenizer):
        part.save_pretrained(path / "raw")
    modules = [Transformer(str(path / "raw")), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(path / "model"), create_model_card=False)
    return path / "model"


def ask_all(loaded: reference.ReferenceModel) -> None:
    texts = {len(text.split()): text for text in check_texts()}
    jobs = [reference_calls.Job(list(texts.values()), "")]
    reference_calls.vectors(loaded, ReferenceTokenizer(loaded), jobs, Budget(SECONDS), lambda *_: None)


def test_a_reference_that_a_short_text_changes_for_good_is_refused(tmp_path: Path) -> None:
    loaded = opened(big_bird(tmp_path / "sparse"))
    with pytest.raises(InvalidModel, match=r"depend on what it embedded before.*set attention_type to"):
        ask_all(loaded)
    ask_all(opened(big_bird(tmp_path / "full", attention_type="original_full")))


@pytest.mark.parametrize("state", ["longest so far", "texts so far", "a short text came"])
def test_any_state_is_noticed(state: str, tmp_path: Path) -> None:
    path = transformer_model(tmp_path / "model")
    ask_all(opened(path))
    loaded = opened(path)

    def moved(module: Any, _given: object, output: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        before, length = getattr(module, "state", 0), output.shape[1]
        module.state = {
            "longest so far": max(before, length),
            "texts so far": before + 1,
            "a short text came": max(before, int(length < 20)),
        }[state]
        changed: torch.Tensor = output * (1 + module.state * torch.eye(32)[0])
        return changed

    loaded.first.model.embeddings.register_forward_hook(moved)
    with pytest.raises(InvalidModel, match="depend on what it embedded before"):
        ask_all(loaded)


def test_positions_that_other_texts_stretch_are_refused(tmp_path: Path) -> None:
    path = transformer_model(tmp_path / "model", "qwen3", max_seq_length=256)
    rope = {
        "rope_type": "dynamic",
        "factor": 2.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 128,
    }
    config = json.loads((path / "config.json").read_text())
    config |= {"max_position_embeddings": 256, "rope_parameters": rope}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InvalidModel, match=r"beyond 128 tokens.*rope_type dynamic.*set max_seq_length to 128"
    ):
        opened(path)
