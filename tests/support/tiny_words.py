"""Tiny models that are lists of words, made with the library: `WordEmbeddings` and `BoW`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Pooling, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import nn

from tests.support.tiny_models import HIDDEN
from tests.support.tiny_tokenizers import WORDS


def word_list() -> list[str]:
    """Return words in the forms that are told apart: with marks around them, in capitals, marks alone."""
    from converters.verification.check_texts import _WORDS

    odd = [
        "U.S.",
        "u.s",
        "U.S",
        "'s",
        "...",
        "--",
        "Paper",
        "dr.",
        "Straße",
        "strasse",
        "don't",
        "i\u0307",
        "été",
    ]
    return list(dict.fromkeys(["PADDING_TOKEN", *odd, *WORDS, *_WORDS, "über", "Hello", "science."]))


def word_embeddings(
    path: Path,
    pooling: str | Sequence[str] = "mean",
    *,
    stop_words: Sequence[str] = ("the", ".", "of", "'s"),
    do_lower_case: bool = False,
    max_seq_length: int = 1_000_000,
    after: Sequence[nn.Module] = (),
    words: Sequence[str] | None = None,
) -> Path:
    """Save a model to `path` and return the path."""
    torch.manual_seed(0)
    words = word_list() if words is None else words
    modes = pooling if isinstance(pooling, str) else tuple(pooling)
    first = WordEmbeddings(
        WhitespaceTokenizer(words, stop_words=stop_words, do_lower_case=do_lower_case),
        torch.randn(len(words), HIDDEN),
        max_seq_length=max_seq_length,
    )
    SentenceTransformer(modules=[first, Pooling(HIDDEN, modes), *after], device="cpu").save(
        str(path), create_model_card=False
    )
    return path


def counts_of_words(path: Path, after: Sequence[nn.Module] = (), *, cumulative: bool = True) -> Path:
    """Save a BoW model with a weight for some words to `path` and return the path."""
    torch.manual_seed(0)
    words = word_list()
    weights = {word: 0.5 + number % 7 for number, word in enumerate(words) if number % 3}
    first = BoW(words, weights, unknown_word_weight=1.5, cumulative_term_frequency=cumulative)
    SentenceTransformer(modules=[first, *after], device="cpu").save(str(path), create_model_card=False)
    return path
