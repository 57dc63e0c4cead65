"""Limits of tokens beyond the table of positions: they are lowered to what it holds."""

from pathlib import Path

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer

from converters.sentence_transformer import positions
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from tests.converters.conftest import Convert
from tests.converters.sentence_transformer.test_options import edited, opened
from tests.support.odd_models import POSITIONS, gpt2, saved
from tests.support.tiny_models import ARCHITECTURES, HIDDEN, transformer_model
from tests.support.tiny_tokenizers import VOCAB, byte_level

LONG = "one two three four five six seven eight nine ten " * 40


def opt() -> transformers.PreTrainedModel:
    """OPT adds 2 to its positions inside the table."""
    config = transformers.OPTConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=100,
        word_embed_proj_dim=HIDDEN,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    return transformers.OPTModel(config)


@pytest.mark.parametrize(
    ("architecture", "limit", "end"),
    [
        ("bert", 512, POSITIONS),
        # Their positions begin after the id of the padding.
        ("roberta", 512, POSITIONS - 2),
        ("roberta", None, POSITIONS - 2),
        ("mpnet", 200, POSITIONS - 2),
        ("distilbert", 131, POSITIONS),
        ("gpt2", 512, POSITIONS),
        ("opt", 512, 100),
    ],
)
def test_a_limit_beyond_the_table_is_lowered(
    architecture: str, limit: int | None, end: int, tmp_path: Path
) -> None:
    if architecture in ARCHITECTURES:
        backbone, tokenizer = ARCHITECTURES[architecture]()
    else:
        backbone, tokenizer = {"gpt2": gpt2, "opt": opt}[architecture](), byte_level()
    path = saved(tmp_path / "model", backbone, tokenizer, max_seq_length=limit)
    stock = SentenceTransformer(str(path), device="cpu")
    with pytest.raises((IndexError, RuntimeError)):
        stock.encode(LONG)
    loaded = opened(path)
    notice = positions.fit_limits(loaded)
    assert notice is not None
    assert f"it has {end} positions" in notice
    assert f"max_seq_length {end}" in notice
    its = ReferenceTokenizer(loaded)
    assert its.max_seq_length == end
    # The whole table is used, and a text that fits has the vector that it had.
    assert its.ids(LONG).size == end
    loaded.encode([LONG])
    short = ["a short text"]
    np.testing.assert_allclose(loaded.encode(short), stock.encode(short), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_limits_that_fit_stay(architecture: str, tmp_path: Path) -> None:
    backbone, tokenizer = ARCHITECTURES[architecture]()
    with_table = architecture in ("bert", "distilbert", "albert", "electra")
    # Beyond that length others have positions of any number, or those of RoBERTa's kind.
    limit = POSITIONS if with_table else 120 if "bert" in architecture or architecture == "mpnet" else 300
    if architecture in ("modernbert", "roberta"):
        limit = {"modernbert": 300, "roberta": POSITIONS - 2}[architecture]
    loaded = opened(saved(tmp_path / "model", backbone, tokenizer, max_seq_length=limit))
    assert positions.fit_limits(loaded) is None
    assert ReferenceTokenizer(loaded).max_seq_length == limit
    loaded.encode([LONG])


def test_every_limit_is_lowered(tmp_path: Path) -> None:
    good = transformer_model(tmp_path / "good", max_seq_length=64)
    given = {"text": {"max_length": 400}, "common": {"truncation": False}}
    for changes, lengths, most in (
        ({"query_length": 20, "document_length": 300}, {"query": 20, "document": POSITIONS}, 64),
        ({"processing_kwargs": {"text": given["text"]}}, {}, POSITIONS),
        ({"processing_kwargs": {"common": given["common"]}}, {}, 64),
    ):
        path = edited(good, tmp_path / f"edited{most}{len(lengths)}{list(changes)}", **changes)
        loaded = opened(path)
        assert positions.fit_limits(loaded) is not None
        its = ReferenceTokenizer(loaded)
        assert (its.lengths, its.max_seq_length) == (lengths, most)


def test_a_lowered_limit_is_served_and_told(sources: Path, convert: Convert) -> None:
    backbone, tokenizer = ARCHITECTURES["roberta"]()
    path = saved(sources / "model", backbone, tokenizer, max_seq_length=512)
    converted = convert("model")
    manifest = converted.manifest
    assert manifest.max_seq_length == POSITIONS - 2
    assert manifest.notice is not None
    assert manifest.notice.startswith("its limit of 512 tokens is too large: it has 128 positions")
    reference = SentenceTransformer(str(path), device="cpu")
    reference.max_seq_length = POSITIONS - 2
    texts = ["a", LONG, "the quick brown fox"]
    np.testing.assert_allclose(
        converted.embed([converted.ids(text) for text in texts]),
        reference.encode(texts, batch_size=1),
        atol=1e-5,
    )
