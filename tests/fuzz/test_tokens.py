"""Texts and token ids: the reference's tokenizer's, whatever the text; and marks that mean one thing."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from converters.clip.tokenizer import ClipTokenizer
from gateway.errors import InvalidInput
from gateway.text.prompts import Direction, TextOptions
from gateway.text.tokenizer import TextTokenizer
from tests.fuzz.mutations import one_line
from tests.gateway.text.test_tokenizer import manifest
from tests.support.tiny_tokenizers import VOCAB, byte_level, unigram, wordpiece
from triton_models.contract.tokens import (
    TOKEN_ID_BITS,
    mark_not_pooled,
    mark_past_cache,
    mark_rows,
    mark_wants_tokens,
    token_ids,
)

LIMIT = 24
MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "wordpiece": wordpiece,
    "byte-level": byte_level,
    "unigram": unigram,
}
PROMPTS = {"query": "query: ", "empty": ""}


@functools.cache
def model_id(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = MAKERS[kind]()
    tokenizer.model_max_length = LIMIT
    return tokenizer


def saved(tokenizer: Tokenizer, **changes: object) -> TextTokenizer:
    """As the front end reads it from a version's directory."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save(f"{directory}/tokenizer.json")
        fields = {"vocab_size": VOCAB, "prompts": PROMPTS, **changes}
        return TextTokenizer(Path(directory), manifest(**fields))


@functools.cache
def triton_name(kind: str) -> TextTokenizer:
    tokenizer = Tokenizer.from_str(model_id(kind).backend_tokenizer.to_str())
    tokenizer.enable_truncation(LIMIT)
    tokenizer.no_padding()
    return saved(tokenizer, special_ids=sorted(model_id(kind).all_special_ids), include_prompt=False)


@functools.cache
def clip() -> tuple[ClipTokenizer, TextTokenizer]:
    made = ClipTokenizer(SimpleTokenizer())
    return made, saved(made.tokenizer, text_cleaning=made.cleaning, vocab_size=49408)


def texts() -> st.SearchStrategy[str]:
    """Any Unicode, and what tokenizers make exceptions for."""
    pieces = st.sampled_from(
        (
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "</s>",
            "<s>",
            "<unk>",
            "<|endoftext|>",
            "<start_of_text>",
            "<end_of_text>",
            "the quick fox",
            "\0",
            "\u2581",
            "##",
            "\u200d",
            "\u0345",
            "\ufeff",
            "\r\n",
            " ",
            "&amp;",
            "\ufb01",
            "\u0130",
            "\u017f",
            "\U000e0001",
            "한국어",
            "🏳️\u200d🌈",
            "a\u0300\u0323",
            "\u202e",
            "'S",
            "''",
            "1²½",
            "\x85",
            "\ufffd",
            "</w>",
        )
    )
    any_text = st.text(max_size=30)
    return st.lists(pieces | any_text, max_size=6).map("".join) | any_text


@given(
    st.sampled_from(sorted(MAKERS)),
    st.lists(texts(), min_size=1, max_size=4),
    st.sampled_from(("right", "left")),
)
def test_ids_are_the_references(kind: str, given_texts: list[str], side: Direction) -> None:
    model_id(kind).truncation_side = side
    expected = model_id(kind)(given_texts, truncation=True)["input_ids"]
    made = triton_name(kind).encode(given_texts, TextOptions(truncation_direction=side, prompt=""))
    assert [row.tolist() for row in made.rows] == expected
    assert made.tokens == sum(map(len, expected))


@given(st.sampled_from(sorted(MAKERS)), texts(), st.sampled_from((*PROMPTS, None)))
def test_prompts_stand_before_the_text(kind: str, text: str, name: str | None) -> None:
    prompt = PROMPTS.get(name or "", "")
    (row,) = triton_name(kind).encode([text], TextOptions(prompt_name=name)).rows
    model_id(kind).truncation_side = "right"
    (expected,) = model_id(kind)([prompt + text], truncation=True)["input_ids"]
    assert token_ids(row).tolist() == expected


@given(st.sampled_from(sorted(MAKERS)), texts())
@example("byte-level", "노래 노래 노래 노래")
def test_ids_sent_are_ids_made(kind: str, text: str) -> None:
    """A caller who tokenises gets the vectors of one who does not."""
    options = TextOptions(prompt="")
    (row,) = triton_name(kind).encode([text], options).rows
    (again,) = triton_name(kind).encode_ids([row.tolist()], options).rows
    assert again.tolist() == row.tolist()


@given(
    st.sampled_from(sorted(MAKERS)),
    st.lists(st.integers() | st.integers(-2, VOCAB + 1), max_size=40),
    st.booleans(),
)
@example("wordpiece", [10**4000], True)
@example("wordpiece", [-(10**4000)], True)
def test_any_numbers_as_ids(kind: str, ids: list[int], truncate: bool) -> None:
    for use in (triton_name(kind).decode, lambda ids: sent(kind, ids, truncate)):
        try:
            found = use(ids)
        except InvalidInput as error:
            one_line(error)
        else:
            assert all(0 <= id_ < VOCAB for id_ in ids)
            assert isinstance(found, str) or len(found) <= LIMIT


def sent(kind: str, ids: Sequence[int], truncate: bool) -> NDArray[np.int64]:
    (row,) = triton_name(kind).encode_ids([ids], TextOptions(prompt="", truncate=truncate)).rows
    return row


@given(st.sampled_from(sorted(MAKERS)), texts(), st.booleans())
def test_tokens_tell_where_they_are(kind: str, text: str, special: bool) -> None:
    found = triton_name(kind).tokens(text, add_special_tokens=special)
    whole = Tokenizer.from_str(model_id(kind).backend_tokenizer.to_str())
    whole.no_truncation()
    assert [token.id for token in found] == whole.encode(text, add_special_tokens=special).ids
    for token in found:
        assert token.start is None or token.text == text[token.start : token.stop]


@given(texts())
def test_ids_are_open_clips(text: str) -> None:
    made, front_end = clip()
    expected = made.reference_ids(text)
    assert np.array_equal(made.filled(text), expected)
    (row,) = front_end.encode([text]).rows
    assert row.tolist() == expected[: len(row)].tolist()


Rows = NDArray[np.int64]


def batches() -> st.SearchStrategy[Rows]:
    """Few ids, so that different batches often have equal bytes; some with a prompt that is not pooled."""
    shapes = st.tuples(st.integers(1, 4), st.integers(1, 6))
    ids = st.sampled_from((0, 1, 2**TOKEN_ID_BITS - 1))
    rows = shapes.flatmap(lambda shape: arrays.arrays(np.int64, shape, elements=ids))
    return st.builds(
        lambda rows, prompt: np.stack([mark_not_pooled(row, prompt) for row in rows]), rows, st.integers(0, 2)
    )


def forms(rows: Rows) -> list[tuple[str, Rows]]:
    """Every request that is made of rows, by what it asks for."""
    marked = mark_rows(rows)
    wants = mark_wants_tokens(marked)
    return [
        ("texts", marked),
        ("texts past the cache", mark_past_cache(marked)),
        ("tokens", wants),
        ("tokens past the cache", mark_past_cache(wants)),
    ]


@given(batches(), batches(), st.booleans())
def test_equal_bytes_are_the_same_request(one: Rows, other: Rows, reshaped: bool) -> None:
    """Triton's cache compares bytes alone."""
    if reshaped:
        shapes = [(n, one.size // n) for n in range(1, one.size + 1) if one.size % n == 0]
        other = one.reshape(shapes[other.size % len(shapes)])
    for asked, first in forms(one):
        assert np.array_equal(token_ids(first), token_ids(one))
        for asked_too, second in forms(other):
            same = asked == asked_too and one.shape == other.shape and np.array_equal(one, other)
            assert (first.tobytes() == second.tobytes()) is same
