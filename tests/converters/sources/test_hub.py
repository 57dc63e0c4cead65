"""Which of a repository's files are fetched. The Hub itself is out of reach in tests."""

from pathlib import Path

import pytest

from converters.sources.hub import cached, download, needed, repository_ids
from tests.converters.conftest import Steps
from triton_models.contract.names import InvalidModelName, validate_revision


def test_one_form_of_the_weights_and_no_code() -> None:
    read = {
        "config.json",
        "modules.json",
        "tokenizer.json",
        "vocab.txt",
        "README.md",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
    }
    left = {
        "pytorch_model.bin",
        "onnx/model.onnx",
        "openvino/openvino_model.xml",
        "openvino/openvino_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "modeling_custom.py",
        "image.png",
    }
    assert set(needed(sorted(read | left))) == read


def test_shards_are_fetched_whole() -> None:
    files = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert sorted(needed(files)) == sorted(files)


def test_a_bare_name_is_also_one_of_the_library_s_own() -> None:
    assert repository_ids("owner/model") == ("owner/model",)
    assert repository_ids("model") == ("sentence-transformers/model", "model")
    assert repository_ids("bert-base-uncased") == ("bert-base-uncased",)


OUTSIDE = (
    "../../../elsewhere",
    "a/../../b",
    "..",
    "a//b",
    "a/",
    "/etc",
    "a/.git",
    "-x",
    "",
    "a b",
    "x" * 200,
)


@pytest.mark.parametrize("revision", OUTSIDE)
def test_a_revision_cannot_lead_out_of_the_cache(
    revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    (cache / "models--owner--name" / "snapshots").mkdir(parents=True)
    outside = cache / "elsewhere"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    (outside / "model.safetensors").write_text("")
    with pytest.raises(InvalidModelName, match="revision"):
        cached("owner/name", revision)
    with pytest.raises(InvalidModelName, match="revision"):
        download("owner/name", revision, Steps())


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", "v1.0", "0123456789abcdef" * 2, "a_b/c-d.e"])
def test_revisions_as_the_hub_names_them(revision: str) -> None:
    validate_revision(revision)
