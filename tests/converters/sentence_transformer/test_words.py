"""Models that are lists of words: WordEmbeddings with its pooling, and BoW."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from converters.errors import InvalidModel
from gateway.text.tokenizer import TextTokenizer
from tests.converters.conftest import Convert, Converted
from tests.support.planted import LENGTHS, assert_all_kept_apart, assert_kept_apart, engines, of, texts
from tests.support.tiny_models import HIDDEN
from tests.support.tiny_words import counts_of_words, word_embeddings, word_list

TEXTS = [
    "the paper of the U.S., in a quiet winter",
    "Hello ocean, hello river! (Paper) PAPER",
    "river river river",
    "science. bread",
    "market doctor silver " * 400,
    "running between careful windows",
]


def assert_the_librarys(converted: Converted, path: Path) -> None:
    """Every text alone and all in one batch, with the gateway's own tokenizer."""
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(TEXTS, batch_size=1)
    tokenizer = TextTokenizer(converted.directory, converted.manifest)
    rows = [row.tolist() for row in tokenizer.encode(TEXTS).rows]
    alone = np.concatenate([converted.embed([row]) for row in rows])
    for found in (alone, converted.embed(rows)):
        np.testing.assert_allclose(found, expected, atol=1e-6 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": ["mean", "mean_sqrt_len_tokens", "weightedmean"], "max_seq_length": 1000},
        {
            "pooling": "max",
            "max_seq_length": 64,
            "do_lower_case": True,
            "after": [Dense(HIDDEN, 8), Normalize()],
        },
    ],
    ids=["flat", "padded"],
)
def test_vectors_of_words(options: dict[str, Any], sources: Path, convert: Convert) -> None:
    path = word_embeddings(sources / "model", **options)
    converted = convert("model")
    manifest = converted.manifest
    assert (manifest.attention, manifest.token_dimensions) == ("none", HIDDEN)
    assert manifest.max_seq_length == options["max_seq_length"]
    assert_the_librarys(converted, path)
    assert manifest.planted_id is not None
    parts = 3 if "after" not in options else 1
    assert_all_kept_apart(
        converted.directory / "model.onnx", manifest.planted_id, manifest.vocab_size, parts=parts
    )
    with np.load(converted.directory / "check.npz") as check:
        nothing = SentenceTransformer(str(path), device="cpu").encode("")
        if np.isfinite(nothing).all():
            np.testing.assert_array_equal(check["empty_embedding"], nothing)


@pytest.mark.parametrize("cumulative", [True, False])
def test_counts_of_words(cumulative: bool, sources: Path, convert: Convert) -> None:
    after = [] if cumulative else [Dense(len(word_list()), 16), Normalize()]
    torch.manual_seed(0)
    path = counts_of_words(sources / "model", after, cumulative=cumulative)
    converted = convert("model")
    manifest = converted.manifest
    assert manifest.token_dimensions is None
    assert manifest.dimensions == (len(word_list()) if cumulative else 16)
    assert_the_librarys(converted, path)
    rows = texts(manifest.vocab_size, [*LENGTHS, 300])
    assert manifest.planted_id is not None
    for name, engine in engines(converted.directory / "model.onnx"):
        assert_kept_apart(of(engine), rows, manifest.planted_id, name)


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TABLE, LIST = "wordembedding_config.json", "whitespacetokenizer_config.json"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda path: edited(path / TABLE, tokenizer_class="os.system"), "os.system"),
    "phrases": (
        lambda path: edited(
            path / TABLE, tokenizer_class="sentence_transformers.models.tokenizer.PhraseTokenizer"
        ),
        "PhraseTokenizer.* WhitespaceTokenizer",
    ),
    "another key": (lambda path: edited(path / TABLE, embedding_weights="x"), "embedding_weights"),
    "limit": (lambda path: edited(path / TABLE, max_seq_length=-3), "max_seq_length"),
    "no list": (lambda path: (path / LIST).unlink(), f"has no {LIST}"),
    "list cut": (lambda path: (path / LIST).write_text('{"vocab": ["a"'), f"{LIST} is broken"),
    "list of numbers": (lambda path: edited(path / LIST, vocab=[1, 2]), "lists of words"),
    "half a character": (lambda path: edited(path / LIST, vocab=["\ud800"]), "lists of words"),
    "empty word": (lambda path: edited(path / LIST, vocab=["", *word_list()[1:]]), "empty one"),
    "stop words": (lambda path: edited(path / LIST, stop_words=["x"] * 20000), "20000 stop words"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_broken_lists_of_words(damage: str, sources: Path, convert: Convert) -> None:
    how, named = REFUSED[damage]
    how(word_embeddings(sources / "model"))
    with pytest.raises(InvalidModel, match=named):
        convert("model")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocab": []}, "list of words and their weights"),
        ({"word_weights": {"the": 10**400}}, "list of words and their weights"),
        ({"word_weights": {"the": "1"}}, "list of words and their weights"),
        ({"vocab": [str(n) for n in range(70000)]}, "70,000 numbers"),
        ({"tokenizer": "x"}, "tokenizer"),
    ],
)
def test_broken_counts_of_words(
    changes: dict[str, object], named: str, sources: Path, convert: Convert
) -> None:
    edited(counts_of_words(sources / "model") / "0_BoW" / "config.json", **changes)
    with pytest.raises(InvalidModel, match=named):
        convert("model")


def test_a_pooling_that_pads_needs_a_limit(sources: Path, convert: Convert) -> None:
    word_embeddings(sources / "model", "max")
    with pytest.raises(InvalidModel, match="set max_seq_length to at most 8192"):
        convert("model")
