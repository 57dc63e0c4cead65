"""The cost of a tokenizer is checked for every kind of model, before the first text."""

import json
from pathlib import Path

import pytest
from open_clip.tokenizer import HFTokenizer

from converters.clip.tokenizer import ClipTokenizer
from converters.errors import InvalidModel
from converters.sentence_transformer.tokenizer import ReferenceTokenizer
from tests.converters.sentence_transformer.test_options import opened
from tests.support.tiny_models import static_model
from tests.support.tiny_tokenizers import unigram

EVIL = {"type": "Replace", "pattern": {"Regex": "(?:qzx)(a|aa)+$"}, "content": "z"}
REPEATS = r"regular expression '\(\?:qzx\)\(a\|aa\)\+\$' repeats"


def spoil(file: Path) -> None:
    spec = json.loads(file.read_text())
    before = [spec["normalizer"]] if spec["normalizer"] else []
    spec["normalizer"] = {"type": "Sequence", "normalizers": [*before, EVIL]}
    file.write_text(json.dumps(spec))


def test_of_a_clip_model(tmp_path: Path) -> None:
    unigram(ends=True).save_pretrained(tmp_path)
    ClipTokenizer(HFTokenizer(str(tmp_path), context_length=16))
    spoil(tmp_path / "tokenizer.json")
    with pytest.raises(InvalidModel, match=REPEATS):
        ClipTokenizer(HFTokenizer(str(tmp_path), context_length=16))


def test_of_static_embeddings(tmp_path: Path) -> None:
    path = static_model(tmp_path / "static")
    (file,) = path.rglob("tokenizer.json")
    ReferenceTokenizer(opened(path))
    spoil(file)
    with pytest.raises(InvalidModel, match=REPEATS):
        ReferenceTokenizer(opened(path))
