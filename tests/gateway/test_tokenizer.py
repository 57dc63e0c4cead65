"""What is sent to Triton for a text."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gateway.inference import group, unit_length
from gateway.tokenizer import TextTokenizer
from triton_models.manifest import Manifest, Source
from triton_models.tokens import NOT_POOLED, token_ids

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
    rows = TextTokenizer(version_dir, manifest()).encode(["a dog", "", "dog " * 10])
    assert [row.tolist() for row in rows] == [[0, 5, 6, 1], [0, 1], [0, 6, 6, 6, 6, 1]]
    assert all(row.dtype == np.int64 for row in rows)


def test_a_clip_models_text_is_cleaned_first(version_dir: Path) -> None:
    cleaned = manifest(text_cleaning="lower")
    assert TextTokenizer(version_dir, cleaned).encode(["  A &amp;amp;\n DOG"])[0].tolist() == [0, 5, 2, 6, 1]
    bare = manifest(text_cleaning="canonicalize")
    assert TextTokenizer(version_dir, bare).encode(["A, (dog)!"])[0].tolist() == [0, 5, 6, 1]


def test_a_tower_that_sees_its_padding_gets_it(version_dir: Path) -> None:
    fixed = manifest(fixed_length=6, pad_id=2)
    rows = TextTokenizer(version_dir, fixed).encode(["a dog", "dog " * 10])
    assert [row.tolist() for row in rows] == [[0, 5, 6, 1, 2, 2], [0, 6, 6, 6, 6, 1]]
    assert all(row.dtype == np.int64 for row in rows)


def test_the_default_prompt_is_put_before_each_text(version_dir: Path) -> None:
    prompted = manifest(prompts={"query": "query: "}, default_prompt_name="query")
    assert TextTokenizer(version_dir, prompted).encode(["a"])[0].tolist() == [0, 3, 4, 5, 1]


def test_a_prompt_left_out_of_pooling_is_marked(version_dir: Path) -> None:
    prompted = manifest(prompts={"query": "query: "}, default_prompt_name="query", include_prompt=False)
    row = TextTokenizer(version_dir, prompted).encode(["a dog"])[0]
    assert token_ids(row).tolist() == [0, 3, 4, 5, 6, 1]
    # [CLS] query : are the prompt as the reference counts it; its trailing [SEP] is not.
    assert [bool(element & NOT_POOLED) for element in row.tolist()] == [True] * 3 + [False] * 3


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
