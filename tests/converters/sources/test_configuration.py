"""What a model's configuration could make the libraries open, fetch, run or allocate, and what it may."""

import json
import shutil
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.coca_model import MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from sentence_transformers.base.modules.transformer import Transformer

from converters.clip import source
from converters.errors import InvalidModel
from converters.sentence_transformer.reference import load
from converters.sources import configuration, weights
from converters.sources.find import find
from converters.sources.inspection import inspect
from tests.converters.conftest import Convert, Steps
from tests.converters.sources.test_inspection import add_module, edit
from tests.support.tiny_models import transformer_model

ST = "sentence_bert_config.json"
TOKENIZER = "tokenizer_config.json"
TEXTS = ["a dog", "42 diving whales"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformer_model(tmp_path_factory.mktemp("configuration") / "model", dense=16)


@pytest.fixture
def model(good: Path, sources: Path) -> Path:
    shutil.copytree(good, sources / "model")
    return sources / "model"


def second_transformer(path: Path) -> None:
    (path / "9_Extra").mkdir()
    edit(path / "9_Extra" / ST, tokenizer_args={"vocab_file": "/etc/passwd"})
    add_module(path, "sentence_transformers.models.Transformer")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a vocabulary elsewhere": (ST, {"tokenizer_args": {"vocab_file": "/etc/passwd"}}, "'vocab_file'"),
    "by its newer name": (ST, {"processor_kwargs": {"tokenizer_file": "/etc/x"}}, "'tokenizer_file'"),
    "a chat template elsewhere": (ST, {"processor_kwargs": {"padding_side": "../../x"}}, "padding_side"),
    "pickled code": (ST, {"model_args": {"weights_only": False}}, "'weights_only'"),
    "code": (ST, {"model_kwargs": {"trust_remote_code": True}}, "'trust_remote_code'"),
    "a kernel": (ST, {"model_kwargs": {"attn_implementation": "kernels-community/x"}}, "code of others"),
    "weights elsewhere": (ST, {"model_args": {"state_dict": {}}}, "'state_dict'"),
    "an adapter": (ST, {"model_args": {"adapter_kwargs": {"_adapter_model_path": "/x"}}}, "'adapter_kwargs'"),
    "a configuration elsewhere": (
        ST,
        {"config_args": {"_configuration_file": "../x"}},
        "_configuration_file",
    ),
    "the Hub": (ST, {"config_kwargs": {"local_files_only": False}}, "'local_files_only'"),
    "no object": (ST, {"config_kwargs": ["vocab_file"]}, "broken"),
    "an unknown key": (ST, {"anything": 1}, "'anything'"),
    "options of a call": (ST, {"processing_kwargs": {"text": {"text_pair": "x"}}}, "'text_pair'"),
    "tokens that are a file": ("special_tokens_map.json", {"vocab_file": "/etc/passwd"}, "'vocab_file'"),
    "arguments by position": (TOKENIZER, {"init_inputs": ["/etc/passwd"]}, "'init_inputs'"),
    "merges elsewhere": (TOKENIZER, {"merges_file": "/etc/passwd"}, "'merges_file'"),
    "a vocabulary by its path": (TOKENIZER, {"vocab": "/etc/passwd"}, "'vocab'"),
    "sentencepiece's own": (TOKENIZER, {"sp_model_kwargs": {"model_file": "/x"}}, "'sp_model_kwargs'"),
    "a tokenizer elsewhere": (
        TOKENIZER,
        {"fast_tokenizer_files": ["tokenizer.1/../../x.json"]},
        "fast_token",
    ),
    "quantized": ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantized"),
    "other weights": ("config.json", {"transformers_weights": "x.safetensors.index.json"}, "another file"),
    "another config": (
        "config.json",
        {"configuration_files": ["config.0/../../x.json"]},
        "configuration_files",
    ),
    "a kernel in config": ("config.json", {"_attn_implementation": "kernels-community/x"}, "code of others"),
    "a kernel below": (
        "config.json",
        {"text_config": {"attn_implementation": {"": "a/b"}}},
        "code of others",
    ),
    "a path below": ("config.json", {"extra": [{"index": "../../secret"}]}, "names a path"),
    "a home": ("config.json", {"extra": "~/.ssh/id"}, "names a path"),
    "an address": ("config.json", {"extra": "https://example.com/x"}, "names a path"),
    "timm": ("config.json", {"backbone_config": {"model_type": "timm_backbone"}}, "timm"),
    "a processor's file": ("preprocessor_config.json", {"class_info_file": "x.json"}, "'class_info_file'"),
    "a processor's path": ("processor_config.json", {"a": {"b": "/etc/passwd"}}, "names a path"),
    "an index": ("model.safetensors.index.json", {"weight_map": {"a": "../x.safetensors"}}, "outside"),
    "an index of pickles": ("pytorch_model.bin.index.json", {"weight_map": {"a": "/x.bin"}}, "outside"),
    "a function of torch": ("2_Dense/config.json", {"activation_function": "torch.hub.load"}, "torch.nn"),
    "layers without end": ("config.json", {"num_hidden_layers": 10**7}, "num_hidden_layers"),
    "a dense without end": ("2_Dense/config.json", {"in_features": 10**6, "out_features": 10**6}, "weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_leads_elsewhere_is_refused_by_name(case: str, model: Path) -> None:
    name, changes, reason = REFUSED[case]
    edit(model / name, **changes)
    with pytest.raises(InvalidModel, match=reason) as refused:
        inspect(model, trust_remote_code=False)
    assert str(model) not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_every_module_is_looked_at(model: Path) -> None:
    second_transformer(model)
    with pytest.raises(InvalidModel, match="module 4 is Transformer"):
        inspect(model, trust_remote_code=False)


def test_a_file_of_the_server_does_not_become_a_vocabulary(
    model: Path, tmp_path: Path, convert: Convert
) -> None:
    """As seen: the model's author read files by way of the tokenizer that the server then kept."""
    secret = tmp_path / "secret"
    secret.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhunter2\n")
    (model / "tokenizer.json").unlink()
    (model / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (model / TOKENIZER).write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    for name, changes in (
        (ST, {"tokenizer_args": {"vocab_file": str(secret)}}),
        ("special_tokens_map.json", {"vocab_file": str(secret)}),
    ):
        before = (model / name).read_bytes() if (model / name).exists() else None
        edit(model / name, **changes)
        with pytest.raises(InvalidModel, match="vocab_file"):
            convert("model")
        (model / name).unlink() if before is None else (model / name).write_bytes(before)


WILD: dict[str, dict[str, Any]] = {
    ST: {
        "do_lower_case": False,
        "model_args": {"attn_implementation": "sdpa", "torch_dtype": "float32", "trust_remote_code": False},
        "tokenizer_args": {"padding_side": "right", "truncation_side": "right", "unk_token": "[UNK]"},
        "config_args": {"use_cache": False},
    },
    TOKENIZER: {
        "name_or_path": "/home/someone/model",
        "special_tokens_map_file": "/root/.cache/huggingface/transformers/0123",
        "sp_model_kwargs": {},
        "init_inputs": [],
        "vocab_file": None,
        "never_split": None,
        "do_basic_tokenize": True,
        "additional_special_tokens": ["[UNK]"],
        "chat_template": "{{ '/x' }}",
        "cls_token_box": [0, 0, 0, 0],
    },
    "special_tokens_map.json": {
        "unk_token": "[UNK]",
        "pad_token": {"content": "[PAD]", "lstrip": False, "normalized": False, "rstrip": False},
        "additional_special_tokens": [],
    },
    "config.json": {
        "_name_or_path": "/data/checkpoints/7",
        "id2label": {"0": "/location/city"},
        "task_specific_params": {"summarization": {"prefix": "https://x"}},
        "auto_map": {"AutoModel": "custom.Model"},
        "torch_dtype": "float32",
        "_attn_implementation": "sdpa",
        "quantization_config": None,
    },
}


def test_what_models_in_the_wild_hold_changes_nothing(model: Path, good: Path, tmp_path: Path) -> None:
    expected = load(good, inspect(good, trust_remote_code=False), trust_remote_code=False).encode(TEXTS)
    for name, changes in WILD.items():
        edit(model / name, **changes)
    # Another tokenizer, which an old file may point to: transformers takes the model's own.
    other = json.loads((model / "tokenizer.json").read_text())
    words = other["model"]["vocab"]
    other["model"]["vocab"] = dict(zip(words, reversed(words.values()), strict=True))
    (tmp_path / "other.json").write_text(json.dumps(other))
    edit(model / TOKENIZER, tokenizer_file=str(tmp_path / "other.json"))
    layout = inspect(model, trust_remote_code=False)
    given = load(model, layout, trust_remote_code=False).encode(TEXTS)
    assert np.array_equal(given, expected)


def test_a_model_whose_code_is_trusted_may_have_arguments_of_its_own(model: Path) -> None:
    edit(model / ST, model_args={"use_memory_efficient_attention": False}, anything=1)
    assert inspect(model, trust_remote_code=True).notice is None
    with pytest.raises(InvalidModel, match="anything"):
        inspect(model, trust_remote_code=False)


def test_the_lists_are_the_libraries_own() -> None:
    """A new option of a library fails here, for somebody to say whether a model may set it."""
    assert set(Transformer.config_keys) <= configuration.TRANSFORMER_KEYS
    assert {field.name for field in fields(CLIPTextCfg)} == source.TEXT_KEYS
    assert {field.name for field in fields(CLIPVisionCfg)} == source.VISION_KEYS
    assert {field.name for field in fields(MultimodalCfg)} == source.MULTIMODAL_KEYS
    for name in open_clip.list_models():
        source.check(open_clip.get_model_config(name))


def test_links_out_of_the_source_directories(model: Path, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (sources / "shared.txt").write_text("x")
    (model / "vocab.txt").symlink_to(sources / "shared.txt")
    assert find("model", None, [sources], tmp_path, Steps()).directory == model
    (model / "1_Pooling" / "inner").symlink_to("../config.json")
    (model / "loop").symlink_to("loop")
    assert find("model", None, [sources], tmp_path, Steps()).directory == model
    (model / "1_Pooling" / "outer").symlink_to("../../../secret")
    with pytest.raises(InvalidModel, match="1_Pooling/outer is a link"):
        find("model", None, [sources], tmp_path, Steps())


def test_a_link_to_a_snapshot_of_the_hub_s_cache(sources: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "0123").write_text("{}")
    snapshot = repository / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    (sources / "linked").symlink_to(snapshot)
    assert find("linked", None, [sources], tmp_path, Steps()).directory == sources / "linked"


CLAIMS: dict[str, Any] = {
    "vocab_size": 12_000_000,
    "hidden_size": 32 * 1024,
    "max_position_embeddings": 10**9,
    "intermediate_size": 10**8,
    "type_vocab_size": 10**8,
}


@pytest.mark.parametrize("key", CLAIMS)
def test_a_configuration_of_more_weights_than_there_are(key: str, model: Path) -> None:
    edit(model / "config.json", **{key: CLAIMS[key]})
    layout = inspect(model, trust_remote_code=False)
    with pytest.raises(InvalidModel, match=r"config.json asks for .* weights and the files hold 39,552"):
        load(model, layout, trust_remote_code=False)


def test_weights_are_counted_by_what_they_unpack_to(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.bin")
    with (
        zipfile.ZipFile(tmp_path / "plain.bin") as plain,
        zipfile.ZipFile(tmp_path / "packed.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "packed.bin").stat().st_size < 1 << 20
    assert weights.of(tmp_path / "packed.bin").unpacked >= 4 << 20
