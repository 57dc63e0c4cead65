"""What is sent to Triton for a text."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers.sentence_transformer.modules import Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from converters.verification.check_texts import check_texts
from gateway.errors import InvalidInput
from gateway.inference.vectors import unit_length
from gateway.text.prompts import Direction, TextOptions
from gateway.text.tokenizer import TextTokenizer, Token, group
from tests.support import tiny_tokenizers
from tests.support.tiny_tokenizers import VOCAB
from triton_models.contract.manifest import Manifest, Source
from triton_models.contract.prompts import InputType
from triton_models.contract.tokens import NOT_POOLED, token_ids

SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "vocab_size": VOCAB,
}
VOCABULARY = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "query": 3, ":": 4, "a": 5, "dog": 6}


@pytest.fixture
def version_dir(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    tokenizer.enable_truncation(6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def manifest(**changes: object) -> Manifest:
    plain = Manifest(
        model_name="m",
        revision=None,
        source=Source("directory", "", None, {}),
        dimensions=2,
        vocab_size=len(VOCABULARY),
        max_seq_length=6,
        add_special_tokens=True,
        attention="packed",
        attention_reason="",
        normalized=True,
        sha256="0" * 64,
        special_ids=[0, 1],
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def test_ids_are_the_tokenizers_truncated(version_dir: Path) -> None:
    rows, tokens = TextTokenizer(version_dir, manifest()).encode(["a dog", "", "dog " * 10])
    assert tokens == 12
    assert [row.tolist() for row in rows] == [[0, 5, 6, 1], [0, 1], [0, 6, 6, 6, 6, 1]]
    assert all(row.dtype == np.int64 for row in rows)


def test_a_clip_models_text_is_cleaned_first(version_dir: Path) -> None:
    cleaned = manifest(text_cleaning="lower")
    assert TextTokenizer(version_dir, cleaned).encode(["  A &amp;amp;\n DOG"]).rows[0].tolist() == [
        0,
        5,
        2,
        6,
        1,
    ]
    bare = manifest(text_cleaning="canonicalize")
    assert TextTokenizer(version_dir, bare).encode(["A, (dog)!"]).rows[0].tolist() == [0, 5, 6, 1]


def test_a_tower_that_sees_its_padding_gets_it(version_dir: Path) -> None:
    fixed = manifest(fixed_length=6, pad_id=2)
    rows, tokens = TextTokenizer(version_dir, fixed).encode(["a dog", "dog " * 10])
    assert tokens == 10
    assert [row.tolist() for row in rows] == [[0, 5, 6, 1, 2, 2], [0, 6, 6, 6, 6, 1]]
    assert all(row.dtype == np.int64 for row in rows)


def test_the_default_prompt_is_put_before_each_text(version_dir: Path) -> None:
    prompted = manifest(prompts={"query": "query: "}, default_prompt_name="query")
    assert TextTokenizer(version_dir, prompted).encode(["a"]).rows[0].tolist() == [0, 3, 4, 5, 1]


def test_a_prompt_left_out_of_pooling_is_marked(version_dir: Path) -> None:
    prompted = manifest(prompts={"query": "query: "}, default_prompt_name="query", include_prompt=False)
    row = TextTokenizer(version_dir, prompted).encode(["a dog"]).rows[0]
    assert token_ids(row).tolist() == [0, 3, 4, 5, 6, 1]
    # [CLS] query : are the prompt as the reference counts it; its trailing [SEP] is not.
    assert [bool(element & NOT_POOLED) for element in row.tolist()] == [True] * 3 + [False] * 3


WHOLE = TextOptions(truncate=False)


@pytest.mark.parametrize("direction", ["right", "left"])
def test_either_end_is_cut_whatever_the_file_does(version_dir: Path, direction: Direction) -> None:
    saved = Tokenizer.from_file(str(version_dir / "tokenizer.json"))
    saved.enable_truncation(6, direction=direction)
    saved.save(str(version_dir / "tokenizer.json"))
    tokenizer = TextTokenizer(version_dir, manifest())
    text, ids = ["query : a dog a dog dog : query"], [[3, 4, 5, 6, 5, 6, 6, 4, 3]]
    ends: dict[Direction, list[int]] = {"right": [0, 3, 4, 5, 6, 1], "left": [0, 6, 6, 4, 3, 1]}
    for end, kept in ends.items():
        options = TextOptions(truncation_direction=end)
        assert tokenizer.encode(text, options).rows[0].tolist() == kept
        assert tokenizer.encode_ids(ids, options).rows[0].tolist() == kept
    assert tokenizer.encode(text).rows[0].tolist() == ends[direction]
    assert tokenizer.encode_ids(ids).rows[0].tolist() == ends[direction]


def test_a_long_text_is_refused_where_it_is_not_to_be_cut(version_dir: Path) -> None:
    tokenizer = TextTokenizer(version_dir, manifest())
    assert tokenizer.encode(["a dog a dog"], WHOLE).rows[0].tolist() == [0, 5, 6, 5, 6, 1]
    with pytest.raises(InvalidInput, match=r"^input\.1: 7 tokens, the model takes 6; "):
        tokenizer.encode(["a", "a dog a dog a"], WHOLE, "input")
    with pytest.raises(InvalidInput, match=r"^text\.0: 22 tokens, the model takes 6; "):
        tokenizer.encode_ids([[5] * 20], WHOLE)


def test_an_input_type_has_a_length_of_its_own(version_dir: Path) -> None:
    tokenizer = TextTokenizer(version_dir, manifest(query_length=4, document_length=8))
    text = "query : a dog a dog dog : query"
    query, document = TextOptions(input_type="query"), TextOptions(input_type="document")
    assert tokenizer.encode([text], query).rows[0].tolist() == [0, 3, 4, 1]
    assert tokenizer.encode([text], document).rows[0].tolist() == [0, 3, 4, 5, 6, 5, 6, 1]
    assert tokenizer.encode([text]).rows[0].tolist() == [0, 3, 4, 5, 6, 1]
    left = TextOptions(input_type="query", truncation_direction="left")
    assert tokenizer.encode([text], left).rows[0].tolist() == [0, 4, 3, 1]
    assert tokenizer.encode_ids([[3, 4, 5, 6]], query).rows[0].tolist() == [0, 3, 4, 1]
    whole = TextOptions(input_type="query", truncate=False)
    for refuses in (
        lambda: tokenizer.encode(["a", text], whole),
        lambda: tokenizer.encode_ids([[5], [5] * 9], whole),
    ):
        with pytest.raises(InvalidInput, match=r"^text\.1: 11 tokens, the model takes 4 of a query; "):
            refuses()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", ["wordpiece", "byte_level", "unigram"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_of_every_input_type_are_the_references(kind: str, side: str, tmp_path: Path) -> None:
    made = getattr(tiny_tokenizers, kind)()
    made.model_max_length, made.truncation_side = 20, side
    made.save_pretrained(tmp_path)
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    lengths: dict[str, Any] = {"query_length": 5, "document_length": 40}
    first: Any = Transformer(str(tmp_path), processor_kwargs={"model_max_length": 20}, **lengths)
    first.preprocess(["text"])
    file = Tokenizer.from_str(first.tokenizer.backend_tokenizer.to_str())
    file.no_padding()
    file.save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path, manifest(max_seq_length=20, vocab_size=VOCAB, **lengths))
    texts = check_texts()
    kinds: tuple[InputType | None, ...] = (None, "query", "document")
    for prompt, input_type in itertools.product(("", "a question: "), kinds):
        options = TextOptions(prompt=prompt, input_type=input_type)
        rows = tokenizer.encode(texts, options).rows
        for text, row in zip(texts, rows, strict=True):
            features = first.preprocess([text], prompt=prompt, task=input_type)
            assert row.tolist() == features["input_ids"][0].tolist(), (text, options)


def test_ids_of_a_caller_are_those_of_its_text(version_dir: Path) -> None:
    tokenizer = TextTokenizer(version_dir, manifest())
    for ids in ([5, 6], [0, 5, 6, 1]):
        assert tokenizer.encode_ids([ids]).rows[0].tolist() == tokenizer.encode(["a dog"]).rows[0].tolist()
    assert tokenizer.encode_ids([[]]).rows[0].tolist() == tokenizer.encode([""]).rows[0].tolist()
    bare = TextTokenizer(version_dir, manifest(add_special_tokens=False))
    assert [row.tolist() for row in bare.encode_ids([[5, 6], []]).rows] == [[5, 6], []]


@pytest.mark.parametrize("wrong", [7, -1, 1 << 80])
def test_an_id_outside_the_vocabulary_is_refused_with_its_place(version_dir: Path, wrong: int) -> None:
    tokenizer = TextTokenizer(version_dir, manifest())
    with pytest.raises(InvalidInput, match=rf"^input\.1\.2: {wrong} is no token of the model; .* 0 to 6;"):
        tokenizer.encode_ids([[5], [5, 6, wrong]], field="input")
    with pytest.raises(InvalidInput, match=rf"^ids\.0: {wrong} is no token"):
        tokenizer.decode([wrong])


def test_ids_go_with_no_prompt(version_dir: Path) -> None:
    prompted = manifest(prompts={"query": "query: "}, default_prompt_name="query")
    tokenizer = TextTokenizer(version_dir, prompted)
    with pytest.raises(InvalidInput, match=r"^text: a prompt goes before text, not before token ids"):
        tokenizer.encode_ids([[5, 6]])
    assert tokenizer.encode_ids([[5, 6]], TextOptions(prompt="")).rows[0].tolist() == [0, 5, 6, 1]


@pytest.mark.parametrize("direction", ["right", "left"])
def test_tokens_are_all_of_the_text_with_their_places(version_dir: Path, direction: str) -> None:
    saved = Tokenizer.from_file(str(version_dir / "tokenizer.json"))
    saved.enable_truncation(6, direction=direction)
    saved.save(str(version_dir / "tokenizer.json"))
    tokenizer = TextTokenizer(version_dir, manifest())
    text = "a dog: a query a dog, a dog"
    tokens = tokenizer.tokens(text)
    assert [token.id for token in tokens] == [0, 5, 6, 4, 5, 3, 5, 6, 2, 5, 6, 1]
    assert tokens[0] == Token(0, "[CLS]", True, None, None)
    assert tokens[2] == Token(6, "dog", False, 2, 5)
    assert all(text[token.start : token.stop] == token.text for token in tokens[1:-1])
    assert tokenizer.tokens(text, add_special_tokens=False) == tokens[1:-1]
    assert tokenizer.tokens("a", prompt="query: ")[1:3] == [
        Token(3, "query", False, 0, 5),
        Token(4, ":", False, 5, 6),
    ]


def test_groups_hold_rows_of_one_length_and_every_row_once() -> None:
    rng = np.random.default_rng(0)
    rows = [np.zeros(length, np.int64) for length in rng.integers(0, 9, 200)]
    groups = group(rows, 16)
    assert sorted(index for indices in groups for index in indices) == list(range(200))
    assert all(len({rows[index].size for index in indices}) == 1 for indices in groups)
    assert max(map(len, groups)) <= 16


def test_unit_length_keeps_a_row_of_zeros() -> None:
    vectors = np.array([[3, 4], [0, 0]], dtype=np.float32)
    assert np.allclose(unit_length(vectors), np.array([[0.6, 0.8], [0.0, 0.0]]))
