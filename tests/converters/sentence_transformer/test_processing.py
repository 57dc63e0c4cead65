"""`processing_kwargs`: special tokens that are left out, and padding of every text to one length."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from converters.errors import InvalidModel
from converters.sentence_transformer import padding
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from gateway.text.tokenizer import TextTokenizer
from tests.converters.conftest import Convert
from tests.converters.sentence_transformer.test_options import edited, opened
from tests.support.tiny_models import transformer_model

TEXTS = ["a", "the quick brown fox", "river " * 50]
WITHOUT: dict[str, Any] = {"text": {"add_special_tokens": False}}
PADDED: dict[str, Any] = {"common": {"padding": "max_length"}, "text": {"max_length": 40}}
BOTH: dict[str, Any] = {"text": {"add_special_tokens": False, "max_length": 40, "padding": "max_length"}}


@pytest.mark.parametrize("given", [WITHOUT, PADDED, BOTH], ids=["bare", "padded", "both"])
def test_the_librarys_vectors(given: dict[str, Any], tmp_path: Path, sources: Path, convert: Convert) -> None:
    good = transformer_model(tmp_path / "good", normalize=False)
    path = edited(good, sources / "model", processing_kwargs=given)
    converted = convert("model")
    special = "add_special_tokens" not in given["text"]
    assert converted.manifest.add_special_tokens == special
    assert converted.manifest.max_seq_length == given["text"].get("max_length", 64)
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(TEXTS, batch_size=1)
    rows = TextTokenizer(converted.directory, converted.manifest).encode(TEXTS).rows
    assert (rows[0].size == 1) == (not special)
    vectors = converted.embed([row.tolist() for row in rows])
    np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())
    tokens = converted.engine.run_tokens(rows[1], np.array([rows[1].size], np.int32))
    of_tokens = np.asarray(reference.encode(TEXTS[1], output_value="token_embeddings"))
    np.testing.assert_allclose(tokens, of_tokens, atol=1e-5 * np.abs(of_tokens).max())


def test_models_with_and_without_special_tokens_are_two_versions(tmp_path: Path) -> None:
    good = transformer_model(tmp_path / "good")
    bare = edited(good, tmp_path / "bare", processing_kwargs=WITHOUT)
    assert ReferenceTokenizer(opened(good)).unusual == {}
    assert ReferenceTokenizer(opened(bare)).unusual == {"add_special_tokens": False}


def test_padding_that_changes_vectors_is_refused(tmp_path: Path) -> None:
    good = transformer_model(tmp_path / "good")
    left = {"text": {"padding": "max_length", "max_length": 40, "padding_side": "left"}}
    # BERT counts positions from the first padding, so its texts begin elsewhere.
    loaded = opened(edited(good, tmp_path / "left", processing_kwargs=left))
    with pytest.raises(InvalidModel, match=r"depend on that padding.*set padding to longest"):
        padding.leave_out(loaded)


def test_an_option_of_the_tokenizers_file_that_the_library_cannot_read(tmp_path: Path) -> None:
    good = transformer_model(tmp_path / "good")
    settings = good / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "add_special_tokens": False}))
    with pytest.raises(InvalidModel, match=r"tokenizer_config.json: add_special_tokens.*processing_kwargs"):
        opened(good)
