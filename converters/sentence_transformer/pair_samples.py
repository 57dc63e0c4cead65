"""Pairs of the check, tokenised, with the reference's logits."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.errors import InvalidModel
from converters.sentence_transformer.pair_reference import Pair, PairReference
from converters.sentence_transformer.pair_tokenizer import PairTokenizer, shown
from converters.verification.budget import Budget
from converters.verification.check_texts import EDGE_TEXTS, check_texts, overlong_text
from converters.verification.samples import Samples
from triton_models.contract.tokens import token_ids

_AT_A_TIME = 32
_SHIFT = 17
"""An edge text is paired with the one so many places later: no number of them is a multiple of it."""
_QUERY_WORDS = 12
_OTHER_PROMPT_PAIRS = 12
_PLAIN_ALWAYS = 38
_LEAST_SHARE = 0.5


class _Row(NamedTuple):
    """A pair with its prompt and its row of `input_ids`, int64 [L]."""

    pair: Pair
    prompt: str
    ids: NDArray[np.int64]


def check_pairs() -> tuple[list[Pair], list[Pair]]:
    """Return the pairs that every check has, and further ones; the same at every call.

    Each edge text is once the first and once the second text. In three pairs, one or both texts are longer
    than most models take.
    """
    texts = check_texts()
    edges = [(text, EDGE_TEXTS[(place + _SHIFT) % len(EDGE_TEXTS)]) for place, text in enumerate(EDGE_TEXTS)]
    thousand, plain = texts[len(EDGE_TEXTS)], texts[len(EDGE_TEXTS) + 1 :]
    queries = [text for text in plain if len(text.split()) <= _QUERY_WORDS]
    others = [(queries[place % len(queries)], text) for place, text in enumerate(plain)]
    longs = [(queries[0], thousand), (thousand, plain[0]), (thousand, " ".join(reversed(thousand.split())))]
    return [*edges, *longs, *others[:_PLAIN_ALWAYS]], others[_PLAIN_ALWAYS:]


def prepare(
    reference: PairReference,
    tokenizer: PairTokenizer,
    vocab_size: int,
    budget: Budget,
    report: Callable[[float, str], None],
) -> Samples:
    """Tokenize the check's pairs, and score as many of them with the reference as the budget allows.

    Pairs on which the tokenizer fails, with a token beyond the model's table, or with a logit that is not
    finite are left out as long as they are few.

    Raises:
        InvalidModel: The saved tokenizer differs from the reference's, or most pairs have no logits.
    """
    always, more = check_pairs()
    default = reference.prompts.get(reference.default_prompt_name or "", "")
    others = sorted({prompt for prompt in reference.prompts.values() if prompt} - {default})
    rows = _rows(reference, tokenizer, vocab_size, always, default)
    if len(rows) < _LEAST_SHARE * len(always):
        raise InvalidModel(
            "the model's tokenizer fails on most texts, or gives tokens that the model has no vector for "
            f"(it has {vocab_size}); tokenizer and weights do not belong together"
        )
    for prompt in others:
        rows += _rows(reference, tokenizer, vocab_size, always[-_OTHER_PROMPT_PAIRS:], prompt)
    overlong = overlong_text()
    # If both texts are long, the library makes an encoding of each piece of one with each of the other.
    tokenizer.check_same(reference, [("a", overlong), (overlong, "a")], default)
    least = len(rows)
    rows += _rows(reference, tokenizer, vocab_size, more, default)
    logits = _logits(reference, rows, least, budget, report)
    finite = [place for place in sorted(logits) if np.isfinite(logits[place]).all()]
    if len(finite) < _LEAST_SHARE * len(logits):
        raise InvalidModel("sentence-transformers gives most pairs no finite logits; the weights are broken")
    return Samples(
        [rows[place].prompt + shown(rows[place].pair) for place in finite],
        [rows[place].ids for place in finite],
        np.stack([logits[place] for place in finite]),
        None,
        not_finite=[rows[place].ids for place in sorted(logits.keys() - set(finite))],
        always=sum(place < least for place in finite),
        kind="cross-encoder",
    )


def _rows(
    reference: PairReference, tokenizer: PairTokenizer, vocab_size: int, pairs: Sequence[Pair], prompt: str
) -> list[_Row]:
    """Return the rows of those pairs whose tokens are all in the model's table."""
    taken = tokenizer.check_same(reference, pairs, prompt)
    rows = [_Row(pair, prompt, tokenizer.row(pair, prompt)) for pair in taken]
    return [row for row in rows if int(token_ids(row.ids).max()) < vocab_size]


def _logits(
    reference: PairReference,
    rows: Sequence[_Row],
    least: int,
    budget: Budget,
    report: Callable[[float, str], None],
) -> dict[int, NDArray[np.float32]]:
    """Return the logits of rows by their places: those below `least`, and more while the budget lasts.

    Rows of one length are scored together, which adds no padding to any.
    """
    groups: dict[tuple[bool, str, int], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        groups[place >= least, row.prompt, row.ids.size].append(place)
    found: dict[int, NDArray[np.float32]] = {}
    for number, ((optional, prompt, _), places) in enumerate(
        sorted(groups.items(), key=lambda item: item[0][0])
    ):
        if optional and budget.is_over:
            break
        for start in range(0, len(places), _AT_A_TIME):
            some = places[start : start + _AT_A_TIME]
            found |= zip(some, reference.logits([rows[place].pair for place in some], prompt), strict=True)
        report((number + 1) / len(groups), "Scoring the check pairs with the reference")
    return found
