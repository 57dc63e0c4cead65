"""Models whose tokenizer is a file of sentencepiece, without a tokenizer.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from converters.errors import InvalidModel
from converters.sentence_transformer.tokenizer import ReferenceTokenizer, notice_of
from converters.sources.inspection import inspect
from converters.verification.check_texts import EDGE_TEXTS
from gateway.text.tokenizer import TextTokenizer
from tests.converters.conftest import Convert
from tests.converters.sentence_transformer.test_options import opened
from tests.support.tiny_models import transformer_model
from tests.support.tiny_sentencepiece import T5_IDS, train

TEXTS = ["a", "the quick brown fox", "素早い茶色の狐 naïve Straße", "river " * 60]
FAIRSEQ = {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}
LLAMA = {"pad_id": 3, "unk_id": 0, "bos_id": 1, "eos_id": 2}
KINDS: dict[str, tuple[str, str, str, str, dict[str, int]]] = {
    "t5": ("t5", "T5Tokenizer", "spiece.model", "unigram", T5_IDS),
    "albert": ("albert", "AlbertTokenizer", "spiece.model", "unigram", T5_IDS),
    "xlm_roberta": ("xlm_roberta", "XLMRobertaTokenizer", "sentencepiece.bpe.model", "unigram", FAIRSEQ),
    "camembert": ("camembert", "CamembertTokenizer", "sentencepiece.bpe.model", "unigram", FAIRSEQ),
    "deberta": ("bert", "DebertaV2Tokenizer", "spm.model", "unigram", T5_IDS),
    "llama": ("mistral", "LlamaTokenizer", "tokenizer.model", "bpe", LLAMA),
}
"""The architecture, the tokenizer's class, its file, the kind of sentencepiece, and the special tokens."""


def make(path: Path, kind: str) -> Path:
    architecture, class_name, file, algorithm, ids = KINDS[kind]
    transformer_model(path, architecture)
    for old in path.glob("*token*.json"):
        if old.name != "config_sentence_transformers.json":
            old.unlink()
    train(path / file, algorithm, ids)
    settings: dict[str, Any] = {"tokenizer_class": class_name, "model_max_length": 64}
    if kind == "llama":
        # Like Llama's own, it has no token for padding unless one is named.
        settings["pad_token"] = "</s>"
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


ALL = [pytest.param(kind, marks=() if kind == "t5" else pytest.mark.slow) for kind in KINDS]


@pytest.mark.parametrize("kind", ALL)
def test_the_librarys_vectors(kind: str, sources: Path, convert: Convert) -> None:
    path = make(sources / "model", kind)
    converted = convert("model")
    reference = SentenceTransformer(str(path), device="cpu")
    expected = reference.encode(TEXTS, batch_size=1)
    rows = TextTokenizer(converted.directory, converted.manifest).encode(TEXTS).rows
    vectors = converted.embed([row.tolist() for row in rows])
    np.testing.assert_allclose(vectors, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_every_files_ids_are_the_references(kind: str, tmp_path: Path) -> None:
    loaded = opened(make(tmp_path / "model", kind))
    tokenizer = ReferenceTokenizer(loaded)
    texts = [text for text in EDGE_TEXTS if len(text) < 300]
    assert tokenizer.check_same(loaded, texts) == texts
    assert tokenizer.ids("the river").size > 2
    assert notice_of(tokenizer.tokenizer, loaded.first.model.get_input_embeddings().num_embeddings) is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "spiece.model is no model"),
        (lambda path: path.write_bytes(b""), "spiece.model is no model of sentencepiece"),
        (lambda path: path.write_text("dGhl 0\nYQ== 1\n"), "spiece.model is no model.*tokenizer.json"),
        (lambda path: path.unlink(), "no tokenizer"),
    ],
    ids=["cut", "empty", "of tiktoken", "missing"],
)
def test_a_broken_file_is_named(damage: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    path = make(tmp_path / "model", "t5")
    damage(path / "spiece.model")
    with pytest.raises(InvalidModel, match=reason):
        inspect(path, trust_remote_code=False)
