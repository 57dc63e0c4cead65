"""CLIP models that must be refused, each with its reason, and nothing of theirs run."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converters.clip.source import find
from converters.errors import ConversionError, InvalidModel, NameCollision, SourceNotFound
from tests.converters.conftest import Steps
from tests.support.clip_conversion import convert_clip
from tests.support.tiny_clip import config, write_clip
from triton_models.contract.names import InvalidModelName
from triton_models.repository.repository import Repository

NAME = "hf-hub:tiny/clip"


class Proof:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def model(sources: Path) -> Path:
    directory = sources / "tiny" / "clip"
    write_clip(directory, config())
    return directory


def refused(root: Path, kind: type[ConversionError], *names: str) -> str:
    with pytest.raises(kind) as caught:
        convert_clip(root, *names)
    assert Repository(root / "repository").triton_names() == []
    message = str(caught.value)
    assert str(root) not in message
    return message


def test_a_checkpoint_that_needs_pickled_code_is_not_run(tmp_path: Path, sources: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"state_dict": Proof(ran)}, sources / "zipped.pt")
    (sources / "plain.pt").write_bytes(pickle.dumps(Proof(ran)))
    for name in ("zipped.pt", "plain.pt"):
        message = refused(tmp_path, InvalidModel, "ViT-B-32", name)
        assert name in message
        assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "cannot be read"), (b"PK\x03\x04 cut", "cannot be read"), (b"\x80\x04N.", "")],
)
def test_a_file_that_is_no_checkpoint(content: bytes, reason: str, tmp_path: Path, sources: Path) -> None:
    (sources / "bad.pt").write_bytes(content)
    assert reason in refused(tmp_path, InvalidModel, "ViT-B-32", "bad.pt")


def change_config(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = path / "open_clip_config.json"
    data = json.loads(file.read_text())
    change(data["model_cfg"])
    file.write_text(json.dumps(data))


def change_weights(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = path / "open_clip_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


BROKEN: dict[str, tuple[Callable[[Path], object], type[ConversionError], str]] = {
    "a weight is missing": (
        lambda path: change_weights(path, lambda weights: weights.pop("ln_final.weight")),
        InvalidModel,
        "ln_final.weight",
    ),
    "a weight has another shape": (
        lambda path: change_config(path, lambda cfg: cfg.update(embed_dim=24)),
        InvalidModel,
        "size mismatch",
    ),
    "not finite": (
        lambda path: change_weights(path, lambda weights: weights["ln_final.bias"].fill_(float("nan"))),
        InvalidModel,
        "finite",
    ),
    "configuration broken": (
        lambda path: (path / "open_clip_config.json").write_text("{"),
        InvalidModel,
        "open_clip_config.json is broken",
    ),
    "configuration of another kind": (
        lambda path: (path / "open_clip_config.json").write_text('{"model_cfg": {"text_cfg": 1}}'),
        InvalidModel,
        "open_clip_config.json is broken",
    ),
    "a tokenizer that is nowhere": (
        lambda path: change_config(path, lambda cfg: cfg["text_cfg"].update(hf_tokenizer_name="no/where")),
        SourceNotFound,
        "needs the tokenizer or configuration of no/where",
    ),
    "a path for a tokenizer": (
        lambda path: change_config(path, lambda cfg: cfg["text_cfg"].update(hf_tokenizer_name="/etc")),
        InvalidModel,
        "is no model",
    ),
    "a path for an image tower": (
        lambda path: change_config(
            path, lambda cfg: cfg["vision_cfg"].update(timm_model_name="local-dir:/etc")
        ),
        InvalidModel,
        "not followed",
    ),
    "a vocabulary elsewhere": (
        lambda path: change_config(
            path, lambda cfg: cfg["text_cfg"].update(tokenizer_kwargs={"vocab_file": "/etc/passwd"})
        ),
        InvalidModel,
        "the key 'vocab_file', which is not accepted",
    ),
    "a tokenizer's vocabulary elsewhere": (
        lambda path: tokenizer_with_arguments(path, vocab_file="/etc/passwd"),
        InvalidModel,
        "the key 'vocab_file', which is not accepted",
    ),
    "a tokenizer's code": (
        lambda path: tokenizer_with_arguments(path, trust_remote_code=True),
        InvalidModel,
        "the key 'trust_remote_code', which is not accepted",
    ),
    "code of a repository": (
        lambda path: change_config(
            path, lambda cfg: cfg["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True})
        ),
        InvalidModel,
        "the key 'trust_remote_code', which is not accepted",
    ),
    "an unknown key": (
        lambda path: change_config(path, lambda cfg: cfg["vision_cfg"].update(timm_kwargs={"a": 1})),
        InvalidModel,
        "the key 'timm_kwargs', which is not accepted",
    ),
    "an unknown part": (
        lambda path: change_config(path, lambda cfg: cfg.update(pretrained_path="x")),
        InvalidModel,
        "the key 'pretrained_path', which is not accepted",
    ),
    "a vocabulary without end": (
        lambda path: change_config(path, lambda cfg: cfg["text_cfg"].update(vocab_size=12_000_000)),
        InvalidModel,
        "asks for",
    ),
    "a context without end": (
        lambda path: change_config(path, lambda cfg: cfg["text_cfg"].update(context_length=10**6)),
        InvalidModel,
        "asks for",
    ),
    "layers without end": (
        lambda path: change_config(path, lambda cfg: cfg["text_cfg"].update(layers=10**7)),
        InvalidModel,
        "layers",
    ),
    "its tokenizer leads elsewhere": (
        lambda path: tokenizer_that_leads_elsewhere(path),
        InvalidModel,
        "special_tokens_map.json holds the key 'vocab_file'",
    ),
    "its text model asks for code": (
        lambda path: text_model(path, {"model_type": "bert", "_attn_implementation": "a/b"}),
        InvalidModel,
        "code of others",
    ),
    "a link out": (
        lambda path: (path / "vocab.txt").symlink_to("/etc/passwd"),
        InvalidModel,
        "is a link",
    ),
}


def tokenizer_that_leads_elsewhere(path: Path) -> None:
    change_config(path, lambda cfg: cfg["text_cfg"].update(hf_tokenizer_name="tiny/clip"))
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (path / "special_tokens_map.json").write_text('{"vocab_file": "/etc/passwd"}')


def tokenizer_with_arguments(path: Path, **arguments: object) -> None:
    tokenizer = {"hf_tokenizer_name": "tiny/clip", "tokenizer_kwargs": arguments}
    change_config(path, lambda cfg: cfg["text_cfg"].update(tokenizer))
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def text_model(path: Path, settings: dict[str, Any]) -> None:
    change_config(path, lambda cfg: cfg["text_cfg"].update(hf_model_name="tiny/text"))
    (path.parent / "text").mkdir()
    (path.parent / "text" / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("case", BROKEN)
def test_broken_models(case: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    breaking, kind, reason = BROKEN[case]
    breaking(model)
    assert reason in refused(tmp_path, kind, NAME)


@pytest.mark.parametrize("key", ["hf_tokenizer_name", "hf_model_name"])
def test_links_out_of_what_the_configuration_names(key: str, model: Path, sources: Path) -> None:
    named = sources / "tiny" / "text"
    named.mkdir()
    (named / "config.json").write_text('{"model_type": "bert"}')
    change_config(model, lambda cfg: cfg["text_cfg"].update({key: "tiny/text"}))
    assert find(NAME, "", [sources], Steps()).source.kind == "directory"
    (named / "vocab.txt").symlink_to("/etc/passwd")
    with pytest.raises(InvalidModel, match=r"vocab.txt is a link to a file outside"):
        find(NAME, "", [sources], Steps())


@pytest.mark.usefixtures("sources")
def test_names_that_no_source_has(tmp_path: Path) -> None:
    assert "no architecture" in refused(tmp_path, SourceNotFound, "ViT-Z-1", "openai")
    message = refused(tmp_path, SourceNotFound, "ViT-B-32", "no_such_tag")
    assert "laion2b_s34b_b79k" in message
    assert "missing.pt" in refused(tmp_path, SourceNotFound, "ViT-B-32", "missing.pt")


@pytest.mark.parametrize("names", [("ViT-B-32", "../x.pt"), ("/etc", "x"), ("hf-hub:../x", "")])
@pytest.mark.usefixtures("sources")
def test_names_that_could_lead_elsewhere(names: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(InvalidModelName):
        convert_clip(tmp_path, *names)


def test_a_tag_s_weights_below_a_source_directory(sources: Path) -> None:
    repository = sources / "timm" / "vit_base_patch32_clip_224.openai"
    repository.mkdir(parents=True)
    (repository / "open_clip_model.safetensors").write_bytes(b"")
    found = find("ViT-B-32", "openai", [sources], Steps())
    assert found.checkpoint == repository / "open_clip_model.safetensors"
    assert found.source.kind == "directory"
    assert found.preprocess["interpolation"] == "bicubic"


@pytest.mark.usefixtures("model")
def test_another_model_holds_the_name(tmp_path: Path, sources: Path) -> None:
    write_clip(sources / "tiny_clip", config())
    convert_clip(tmp_path, NAME)
    with pytest.raises(NameCollision, match="hf-hub:tiny/clip already"):
        convert_clip(tmp_path, "hf-hub:tiny_clip")
