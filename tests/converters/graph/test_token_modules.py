"""Modules that change the vectors of tokens, before the pooling or after it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from torch import nn

from converters.errors import InvalidModel
from tests.converters.conftest import Convert
from tests.converters.graph.test_architectures import TEXTS, assert_texts_are_kept_apart, tokens_of
from tests.support.odd_models import saved
from tests.support.tiny_models import ARCHITECTURES, HIDDEN

TOKENS = "token_embeddings"
WIDTH = 20


def narrowed() -> Dense:
    return Dense(HIDDEN, WIDTH, activation_function=nn.ReLU(), module_input_name=TOKENS)


CHAINS: dict[str, tuple[Callable[[], list[nn.Module]], int, bool]] = {
    "dense": (lambda: [narrowed(), Pooling(WIDTH, "mean")], WIDTH, False),
    "normalized tokens": (lambda: [Normalize(TOKENS), Pooling(HIDDEN, "mean")], HIDDEN, False),
    "both and more": (
        lambda: [
            narrowed(),
            Normalize(TOKENS),
            Pooling(WIDTH, ("max", "mean")),
            Dense(2 * WIDTH, 8),
            Normalize(),
        ],
        WIDTH,
        True,
    ),
    "after the pooling": (lambda: [Pooling(HIDDEN, "cls"), Normalize(TOKENS)], HIDDEN, False),
    "under a name of its own": (
        lambda: [
            Dense(HIDDEN, WIDTH, module_input_name=TOKENS, module_output_name="wide"),
            Dense(WIDTH, HIDDEN, module_input_name="wide", module_output_name=TOKENS),
            Pooling(HIDDEN, "mean"),
        ],
        HIDDEN,
        False,
    ),
}
ALL = [pytest.param(name, marks=() if name == "both and more" else pytest.mark.slow) for name in CHAINS]


@pytest.mark.parametrize("chain", ALL)
def test_the_librarys_vectors_of_texts_and_tokens(chain: str, sources: Path, convert: Convert) -> None:
    modules, width, normalized = CHAINS[chain]
    torch.manual_seed(1)
    path = saved(sources / "model", *ARCHITECTURES["bert"](), modules())
    converted = convert("model")
    assert converted.manifest.token_dimensions == width
    assert converted.manifest.normalized == normalized
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(TEXTS, batch_size=1)
    rows = [converted.ids(text) for text in TEXTS]
    np.testing.assert_allclose(converted.embed(rows), expected, atol=1e-5 * np.abs(expected).max())
    lengths = np.array([len(row) for row in rows], np.int32)
    found = converted.engine.run_tokens(np.concatenate([np.array(row) for row in rows]), lengths)
    of_tokens = np.concatenate(tokens_of(reference))
    np.testing.assert_allclose(found, of_tokens, atol=1e-5 * np.abs(of_tokens).max())
    if chain == "both and more":
        assert_texts_are_kept_apart(converted, parts=2)


@pytest.mark.parametrize(
    ("after", "named"),
    [
        ([Dense(HIDDEN, 8), Pooling(HIDDEN, "mean")], "module 1 .Dense. reads 'sentence_embedding'"),
        (
            [Pooling(HIDDEN, "mean"), Dense(HIDDEN, HIDDEN, module_output_name=TOKENS)],
            "module 2 .Dense. writes vectors of texts as 'token_embeddings'",
        ),
        (
            [Dense(HIDDEN, 8, module_input_name=TOKENS, module_output_name="sentence_embedding")],
            "no Pooling",
        ),
        ([Pooling(HIDDEN, "mean"), Dense(HIDDEN, 8, module_input_name="elsewhere")], "reads 'elsewhere'"),
    ],
)
def test_vectors_that_no_module_gives(
    after: list[nn.Module], named: str, sources: Path, convert: Convert
) -> None:
    saved(sources / "model", *ARCHITECTURES["bert"](), after)
    with pytest.raises(InvalidModel, match=named):
        convert("model")
