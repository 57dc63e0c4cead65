"""Sources that must be refused, each with its reason, and nothing of theirs run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CNN, Pooling

from converters.errors import InvalidModel, NameCollision
from tests.converters.conftest import Convert
from tests.support.tiny_models import HIDDEN, static_model, transformer_model

PROOF = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformer_model(tmp_path_factory.mktemp("good") / "model")


def edit(path: Path, **changes: object) -> None:
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**data, **changes}))


def remove(path: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in path.glob(pattern):
            file.unlink()


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_weights(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def without_layer(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if ".layer.1." not in name}


def with_nan(weights: dict[str, Any]) -> dict[str, Any]:
    return {
        name: np.full_like(value, np.nan) if "LayerNorm.bias" in name else value
        for name, value in weights.items()
    }


def add_module(path: Path, kind: str, folder: str = "9_Extra") -> None:
    modules = json.loads((path / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": folder, "type": kind})
    (path / "modules.json").write_text(json.dumps(modules))


def add_code(path: Path, kind: str) -> None:
    (path / "custom.py").write_text(PROOF + "class Custom: pass\n")
    if kind == "module":
        add_module(path, "custom.Custom", "")
    else:
        edit(
            path / "config.json",
            model_type="custom",
            auto_map={"AutoConfig": "custom.Custom", "AutoModel": "custom.Custom"},
        )


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (
        lambda path: remove(path, "modules.json", "config.json"),
        "not a model",
    ),
    "modules.json cut": (lambda path: cut_in_half(path / "modules.json"), "modules.json is broken"),
    "modules.json of another shape": (
        lambda path: (path / "modules.json").write_text("{}"),
        "modules.json is broken",
    ),
    "config cut": (lambda path: cut_in_half(path / "config.json"), "config.json is broken"),
    "config of a module cut": (
        lambda path: cut_in_half(path / "1_Pooling" / "config.json"),
        "1_Pooling/config.json is broken",
    ),
    "config of nothing": (lambda path: (path / "config.json").write_text("{}"), "cannot load"),
    "config of other sizes": (
        lambda path: edit(path / "config.json", hidden_size=64),
        "has the shape",
    ),
    "no tokenizer": (lambda path: remove(path, "*token*"), "no tokenizer"),
    "tokenizer cut": (lambda path: cut_in_half(path / "tokenizer.json"), "tokenizer.json is broken"),
    "tokenizer of nothing": (lambda path: (path / "tokenizer.json").write_text("{}"), "tokenizer"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights"),
    "weights cut": (lambda path: cut_in_half(path / "model.safetensors"), "cannot load"),
    "weights empty": (lambda path: (path / "model.safetensors").write_bytes(b""), "cannot load"),
    "a layer missing": (
        lambda path: edit_weights(path / "model.safetensors", without_layer),
        "lacks weights",
    ),
    "weights not numbers": (
        lambda path: edit_weights(path / "model.safetensors", with_nan),
        "no finite vector",
    ),
    "code in modules.json": (lambda path: add_code(path, "module"), "'custom.Custom' is code"),
    "code in config.json": (lambda path: add_code(path, "config"), "cannot load"),
    "module outside": (
        lambda path: add_module(path, "sentence_transformers.models.Dense", "../x"),
        "outside",
    ),
    "module unknown": (
        lambda path: add_module(path, "sentence_transformers.models.LSTM"),
        "not supported: it",
    ),
    "Router without its file": (
        lambda path: add_module(path, "sentence_transformers.models.Router"),
        "no router_config.json",
    ),
    "function as module": (
        lambda path: add_module(path, "sentence_transformers.util.http_get"),
        "not supported",
    ),
    "other tokenizer": (
        lambda path: edit(path / "sentence_bert_config.json", tokenizer_name_or_path="/etc"),
        "points to another model",
    ),
    "adapter": (lambda path: edit(path / "adapter_config.json", base_model_name_or_path="x/y"), "adapter"),
    "cross-encoder without a head": (
        lambda path: edit(path / "config_sentence_transformers.json", model_type="CrossEncoder"),
        "gives scores of pairs",
    ),
    "chat": (
        lambda path: edit(
            path / "sentence_bert_config.json",
            modality_config={"message": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
        ),
        "chat messages",
    ),
    "longformer": (lambda path: edit(path / "config.json", model_type="longformer"), "longformer are not"),
    "xlnet": (lambda path: edit(path / "config.json", model_type="xlnet"), "such as ModernBERT"),
    "no pooling": (
        lambda path: (path / "modules.json").write_text(
            json.dumps(
                [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
            )
        ),
        "no Pooling",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_sources(damage: str, good: Path, sources: Path, convert: Convert) -> None:
    path = sources / "model"
    shutil.copytree(good, path)
    how, reason = BROKEN[damage]
    how(path)
    with pytest.raises(InvalidModel, match=reason) as refused:
        convert("model")
    message = str(refused.value)
    assert str(path) not in message
    assert "\n" not in message
    assert len(message) < 500
    assert not (path / "ran").exists()
    repository = sources.parent / "repository"
    assert not (repository / "model").exists()
    assert not list((repository / ".state" / "staging").iterdir())


def test_a_module_that_is_not_supported_is_named(sources: Path, convert: Convert) -> None:
    model = SentenceTransformer(str(transformer_model(sources / "base")), device="cpu")
    modules = [model[0], CNN(HIDDEN, out_channels=8), Pooling(24)]
    SentenceTransformer(modules=modules, device="cpu").save(str(sources / "cnn"), create_model_card=False)
    with pytest.raises(InvalidModel, match=r"CNN' is not supported: its convolutions"):
        convert("cnn")


def test_two_names_that_are_served_under_one(sources: Path, convert: Convert) -> None:
    static_model(sources / "owner" / "model")
    static_model(sources / "owner_model", seed=1)
    first = convert("owner/model")
    with pytest.raises(NameCollision, match="owner/model"):
        convert("owner_model")
    assert first.directory.is_dir()
