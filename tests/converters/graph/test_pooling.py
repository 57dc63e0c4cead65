"""Pooling of packed tokens against the library's module on padded ones."""

from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from converters.graph.packed_attention import Layout
from converters.graph.pooling import GatherPooling, WordPooling

LENGTHS = [5, 1, 9, 3]
HIDDEN = 6


@pytest.mark.parametrize("mode", Pooling.POOLING_MODES)
@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_every_mode_equals_the_library(mode: str, left_out: int) -> None:
    torch.manual_seed(1)
    layout = Layout.of(torch.tensor(LENGTHS), sum(LENGTHS))
    tokens = torch.randn(sum(LENGTHS), HIDDEN)
    pooled = GatherPooling((mode,))(tokens, layout, layout.positions >= left_out)
    features: dict[str, Any] = {"token_embeddings": layout.pad(tokens), "attention_mask": layout.valid.long()}
    if left_out:
        features["prompt_length"] = left_out
    expected = Pooling(HIDDEN, mode, include_prompt=False)(features)["sentence_embedding"]
    torch.testing.assert_close(pooled, expected)


def test_layout_packs_what_it_padded() -> None:
    layout = Layout.of(torch.tensor(LENGTHS), sum(LENGTHS))
    tokens = torch.arange(sum(LENGTHS) * 2).reshape(-1, 2)
    torch.testing.assert_close(layout.pack(layout.pad(tokens)), tokens)
    assert layout.positions.tolist() == [place for length in LENGTHS for place in range(length)]
    assert layout.valid.sum(1).tolist() == LENGTHS


@pytest.mark.parametrize("mode", Pooling.POOLING_MODES)
@pytest.mark.parametrize("spoilt", range(len(LENGTHS)))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_a_text_that_is_not_finite_changes_no_other(mode: str, spoilt: int, value: float) -> None:
    torch.manual_seed(1)
    layout = Layout.of(torch.tensor(LENGTHS), sum(LENGTHS), 16)
    tokens = torch.randn(sum(LENGTHS), HIDDEN)
    pool, all_of_them = GatherPooling((mode,)), torch.ones(sum(LENGTHS), dtype=torch.bool)
    clean = pool(tokens, layout, all_of_them)
    found = pool(torch.where((layout.rows == spoilt).unsqueeze(1), value, tokens), layout, all_of_them)
    others = torch.arange(len(LENGTHS)) != spoilt
    assert torch.equal(found[others], clean[others])


@pytest.mark.parametrize("mode", sorted({*WordPooling.UNPADDED, "max"}))
def test_pooling_of_words(mode: str) -> None:
    torch.manual_seed(1)
    layout = Layout.of(torch.tensor(LENGTHS), sum(LENGTHS))
    tokens, everything = torch.randn(sum(LENGTHS), HIDDEN), torch.ones(sum(LENGTHS), dtype=torch.bool)
    expected = GatherPooling((mode,))(tokens, layout, everything)
    torch.testing.assert_close(WordPooling((mode,))(tokens, layout, everything), expected)
    # One word of the third text, its last one.
    tokens[14] = torch.nan
    found = WordPooling((mode,))(tokens, layout, everything)
    assert torch.isfinite(found).all(1).tolist() == [True, True, False, True]
    torch.testing.assert_close(found[[0, 1, 3]], expected[[0, 1, 3]])
