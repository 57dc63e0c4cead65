"""Models that have no vector for a few texts: they are served, and those texts are refused one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from converters.errors import InvalidModel
from converters.sentence_transformer import samples
from converters.sentence_transformer.tokenizer import ReferenceTokenizer, notice_of
from converters.verification.budget import SECONDS, Budget
from converters.verification.check_texts import EDGE_TEXTS
from converters.verification.samples import Samples
from gateway.errors import InvalidInput
from gateway.text.tokenizer import TextTokenizer
from tests.converters.conftest import Convert, Converted
from tests.converters.sentence_transformer.test_options import opened
from tests.support.odd_models import (
    gpt2,
    known_words_only,
    saved,
    without_special_tokens,
    without_tokens_of_nothing,
)
from tests.support.tiny_models import ARCHITECTURES, static_model
from tests.support.tiny_tokenizers import VOCAB, byte_level

TEXTS = ["a", "the quick brown fox", "素早い茶色の狐 👍 naïve", "river " * 50, " "]


def assert_same_vectors(converted: Converted, path: Path, texts: list[str]) -> None:
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(texts, batch_size=1)
    rows = [converted.ids(text) for text in texts]
    np.testing.assert_allclose(converted.embed(rows), expected, atol=1e-5 * np.abs(expected).max())


def prepared(path: Path) -> tuple[Samples, ReferenceTokenizer]:
    loaded = opened(path)
    tokenizer = ReferenceTokenizer(loaded)
    return samples.prepare(loaded, tokenizer, VOCAB, Budget(SECONDS), lambda *_: None), tokenizer


@pytest.mark.parametrize(
    "kind",
    ["gpt2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt_neo", "bloom", "wordpiece"))],
)
def test_a_tokenizer_that_makes_no_token_of_an_empty_text(kind: str, sources: Path, convert: Convert) -> None:
    path = without_tokens_of_nothing(sources / kind, kind)
    converted = convert(kind)
    assert converted.ids("") == []
    assert_same_vectors(converted, path, [text for text in TEXTS if converted.ids(text)])
    # The reference fails on it, so there is no vector for the gateway either.
    with np.load(converted.directory / "check.npz") as check:
        assert "empty_embedding" not in check


def test_the_references_vector_of_an_empty_text_is_kept(tmp_path: Path) -> None:
    found, _ = prepared(static_model(tmp_path / "static"))
    assert found.empty is not None
    np.testing.assert_array_equal(found.empty, np.zeros(32))


def test_a_prompt_of_no_tokens_is_refused_by_name(tmp_path: Path) -> None:
    tokenizer = without_special_tokens(ARCHITECTURES["bert"]()[1])
    path = saved(tmp_path / "model", ARCHITECTURES["bert"]()[0], tokenizer, prompts={"query": "\u200b"})
    with pytest.raises(InvalidModel, match=r"no token of the prompt '\\u200b'.*remove it"):
        prepared(path)


def test_a_tokenizer_that_fails_on_some_texts(sources: Path, convert: Convert) -> None:
    path = saved(sources / "words", gpt2(), known_words_only())
    converted = convert("words")
    assert_same_vectors(converted, path, ["the river", "music of the ocean market", ""])
    gateway = TextTokenizer(converted.directory, converted.manifest)
    with pytest.raises(InvalidInput, match=r"text\.1: the model's tokenizer fails on this text"):
        gateway.encode(["the river", "xylophone"])
    # The letter with which special tokens are found is no word of this vocabulary, or is one.
    ids = gateway.encode(["the river"]).rows[0].tolist()
    assert gateway.encode_ids([ids, ids[:-1]]).rows[1].tolist() == ids


def test_a_word_without_a_finite_vector(sources: Path, convert: Convert) -> None:
    backbone, tokenizer = ARCHITECTURES["bert"]()
    path = saved(sources / "nan", backbone, tokenizer)
    with_nan(path, tokenizer.get_vocab()["?"])
    converted = convert("nan")
    assert_same_vectors(converted, path, TEXTS)
    assert not np.isfinite(converted.embed([converted.ids("is it?")])).any()


def with_nan(path: Path, row: int) -> None:
    """Make a row of the table of words NaN."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][row] = torch.nan
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def test_a_reference_that_fails_on_most_texts_is_refused(tmp_path: Path) -> None:
    backbone, tokenizer = ARCHITECTURES["bert"]()
    path = saved(tmp_path / "model", backbone, tokenizer)
    loaded = opened(path)
    with pytest.raises(InvalidModel, match="tokenizer and weights do not belong together"):
        samples.prepare(loaded, ReferenceTokenizer(loaded), 50, Budget(SECONDS), lambda *_: None)


def test_a_token_of_the_tokenizer_alone(sources: Path, convert: Convert) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<new>", "brandnew"])
    assert tokenizer.get_vocab()["<new>"] >= VOCAB
    path = saved(sources / "added", gpt2(), tokenizer)
    converted = convert("added")
    assert_same_vectors(converted, path, TEXTS)
    notice = converted.manifest.notice
    assert notice is not None
    assert "'<new>', 'brandnew'" in notice
    assert f"its table of {VOCAB}" in notice
    gateway = TextTokenizer(converted.directory, converted.manifest)
    gateway.encode(["plain text"])
    with pytest.raises(
        InvalidInput, match=rf"text\.4: the text holds 'brandnew'.*its id is {VOCAB + 1}.*leave it out"
    ):
        gateway.encode(["plain text", "this is brandnew"], first=3)
    # What truncation cuts off does not matter, in the library too.
    assert gateway.encode(["word " * 200 + "brandnew"]).rows[0].size == 64
    reference = SentenceTransformer(str(path), device="cpu")
    with pytest.raises(IndexError):
        reference.encode("this is brandnew")


def test_special_tokens_that_only_the_tokenizer_has(tmp_path: Path) -> None:
    """They are in two of the check texts, which are left out."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    path = saved(tmp_path / "model", gpt2(), tokenizer)
    found, its = prepared(path)
    text = next(text for text in EDGE_TEXTS if "<|im_end|>" in text)
    assert text not in found.texts
    assert "'<|im_end|>'" in (notice_of(its.tokenizer, VOCAB) or "")
