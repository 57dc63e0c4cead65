"""Checkpoints without modules.json: of another task they are refused, the others carry a notice."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import transformers

from converters.errors import InvalidModel
from converters.sources.inspection import inspect
from tests.converters.conftest import Convert
from tests.converters.sources.test_inspection import edit
from tests.support.tiny_models import transformer_model

TOKENIZER = "tokenizer_config.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformer_model(tmp_path_factory.mktemp("tasks") / "model")


def saved(path: Path, good: Path, kind: Callable[[Any], Any]) -> None:
    """A plain checkpoint of transformers, as its `save_pretrained` leaves it."""
    config = transformers.BertConfig(
        **{**json.loads((good / "config.json").read_text()), "architectures": None}
    )
    kind(config).save_pretrained(path)
    for name in ("tokenizer.json", TOKENIZER):
        shutil.copy(good / name, path / name)


OTHER_TASKS: Sequence[Callable[[Any], Any]] = (
    transformers.BertForTokenClassification,
    transformers.BertForQuestionAnswering,
    transformers.BertForMultipleChoice,
    transformers.BertForNextSentencePrediction,
)


@pytest.mark.parametrize("kind", OTHER_TASKS)
def test_a_checkpoint_of_another_task_says_what_it_is(
    kind: Callable[[Any], Any], sources: Path, good: Path, convert: Convert
) -> None:
    saved(sources / "ranker", good, kind)
    with pytest.raises(InvalidModel, match=f"is a {kind.__name__} and no embedding model"):
        convert("ranker")


def test_another_kind_says_so_without_modules(sources: Path, good: Path) -> None:
    saved(sources / "sparse", good, transformers.BertModel)
    edit(sources / "sparse" / "config_sentence_transformers.json", model_type="SparseEncoder")
    with pytest.raises(InvalidModel, match="is a SparseEncoder"):
        inspect(sources / "sparse", trust_remote_code=False)


def test_a_masked_language_model_is_converted_with_a_notice(
    sources: Path, good: Path, convert: Convert
) -> None:
    saved(sources / "masked", good, transformers.BertForMaskedLM)
    converted = convert("masked")
    assert converted.manifest.notice is not None
    assert "BertForMaskedLM, no modules.json" in converted.manifest.notice
    assert any(converted.manifest.notice in message for _, _, message in converted.steps)


def test_a_sentence_transformer_has_no_notice(good: Path) -> None:
    assert inspect(good, trust_remote_code=False).notice is None
