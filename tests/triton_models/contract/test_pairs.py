"""Rows of pairs are those of the tokenizers library."""

import random

import numpy as np
import pytest

from tests.support.tiny_tokenizers import CORPUS, wordpiece
from triton_models.contract.manifest import PairTemplate
from triton_models.contract.pairs import PairRows
from triton_models.contract.tokens import SECOND_TEXT

BERT = PairTemplate(before=[2], between=[3], after=[3 | SECOND_TEXT], flag=SECOND_TEXT)


@pytest.mark.parametrize("direction", ["left", "right"])
def test_rows_are_those_of_the_library_at_any_lengths(direction: str) -> None:
    choice = random.Random(1)
    words = " ".join(CORPUS[:2]).split()
    tokenizer = wordpiece().backend_tokenizer
    for _ in range(500):
        limit = choice.choice([3, 4, 5, 8, 9, 17, 33, 64])
        first, second = (" ".join(choice.choices(words, k=choice.randrange(60))) for _ in range(2))
        tokenizer.enable_truncation(limit, strategy="longest_first", direction=direction)
        pair = tokenizer.encode(first, second)
        expected = np.array(pair.ids) + np.array(pair.type_ids) * SECOND_TEXT
        tokenizer.no_truncation()
        one, two = (
            np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)
            for text in (first, second)
        )
        np.testing.assert_array_equal(PairRows(BERT, limit, direction).row(one, two), expected)
        # A request's direction goes before the tokenizer's own.
        other = "left" if direction == "right" else "right"
        np.testing.assert_array_equal(PairRows(BERT, limit, other).row(one, two, direction), expected)


def test_no_limit_keeps_everything() -> None:
    row = PairRows(BERT, None, "right").row(np.arange(10, 2000), np.arange(10, 12))
    assert row.size == 3 + 1990 + 2
    assert row[-3:].tolist() == [10 | SECOND_TEXT, 11 | SECOND_TEXT, 3 | SECOND_TEXT]
