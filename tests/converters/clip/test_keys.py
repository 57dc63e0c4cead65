"""What a CLIP model's configuration hands on is refused by us, before a library sees any of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from converters.clip.source import find
from converters.errors import InvalidModel
from tests.converters.conftest import Steps
from tests.support.tiny_clip import config
from tests.support.tiny_tokenizers import unigram

NAMED = {"hf_tokenizer_name": "tiny/clip"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a vocabulary": (
        {"text_cfg": {**NAMED, "tokenizer_kwargs": {"vocab_file": "/etc/passwd"}}},
        "text_cfg: tokenizer_kwargs holds the key 'vocab_file'",
    ),
    "code": (
        {"text_cfg": {**NAMED, "tokenizer_kwargs": {"trust_remote_code": True}}},
        "text_cfg: tokenizer_kwargs holds the key 'trust_remote_code'",
    ),
    "of the text tower": ({"text_cfg": {"hf_config_file": "x"}}, "text_cfg holds the key 'hf_config_file'"),
    "of the image tower": ({"vision_cfg": {"timm_kwargs": {}}}, "vision_cfg holds the key 'timm_kwargs'"),
    "of the model": ({"pretrained_path": "x"}, "model_cfg holds the key 'pretrained_path'"),
    "of a norm": (
        {"text_cfg": {"norm_kwargs": {"device": "x"}}},
        "text_cfg: norm_kwargs holds the key 'device'",
    ),
}


def source(directory: Path, changes: dict[str, Any]) -> None:
    """A model as far as it is looked at before it is loaded."""
    directory.mkdir(parents=True)
    unigram(ends=True).save_pretrained(directory)
    changed = config()
    for key, value in changes.items():
        changed[key] = {**changed[key], **value} if isinstance(value, dict) else value
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": changed}))
    (directory / "open_clip_model.safetensors").write_bytes(b"")


def test_a_tokenizer_of_its_own_is_found(sources: Path) -> None:
    source(sources / "tiny" / "clip", {"text_cfg": NAMED})
    assert find("hf-hub:tiny/clip", "", [sources], Steps()).tokenizer_files


@pytest.mark.parametrize("case", CASES)
def test_a_key_that_is_not_on_the_list_is_refused_by_name(case: str, sources: Path) -> None:
    changes, reason = CASES[case]
    source(sources / "tiny" / "clip", changes)
    with pytest.raises(InvalidModel, match=f"^{reason}, which is not accepted"):
        find("hf-hub:tiny/clip", "", [sources], Steps())
