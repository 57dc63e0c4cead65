"""Where CLIP models come from: source directories, the Hub's cache, a Hub on loopback."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_hub import TinyHub

FIND = """
import json, sys
from pathlib import Path
from converters.torchvision_shim import make_importable
make_importable()
from converters.clip.source import find
from converters.errors import ConversionError
from converters.progress import JsonProgress
name, pretrained, *dirs = sys.argv[1:]
try:
    found = find(name, pretrained, [Path(d) for d in dirs], JsonProgress(sys.stdout))
    print(json.dumps({
        "kind": found.source.kind,
        "commit": found.source.commit,
        "checkpoint": found.checkpoint.name,
        "tokenizer": [path.name for path in found.tokenizer_files],
        "preprocess": found.preprocess,
        "home": str(found.checkpoint.parent),
    }))
except ConversionError as error:
    print(json.dumps({"error": error.kind, "message": str(error)}))
"""
OPENAI = "timm/vit_base_patch32_clip_224.openai"
TOWERS: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"width": 32}}


def find_apart(name: str, pretrained: str, home: Path, *dirs: Path, **environment: str) -> dict[str, Any]:
    """`find` in a process of its own: huggingface_hub reads its environment at import."""
    process = subprocess.run(
        [sys.executable, "-c", FIND, name, pretrained, *map(str, dirs)],
        env={"HF_HOME": str(home), "PATH": "", "HF_HUB_DISABLE_XET": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return answer


@pytest.mark.slow
def test_the_weights_of_a_tag_are_fetched_alone_and_found_again(tmp_path: Path) -> None:
    files = {
        "open_clip_model.safetensors": b"w",
        "open_clip_pytorch_model.bin": b"p",
        "model.safetensors": b"t",
        "open_clip_config.json": b"{}",
    }
    with TinyHub(OPENAI, files) as hub:
        found = find_apart("ViT-B-32", "openai", tmp_path, HF_ENDPOINT=hub.url)
        assert (found["kind"], found["commit"]) == ("hub", hub.commit)
    assert {path.name for path in Path(found["home"]).iterdir()} == {"open_clip_model.safetensors"}
    assert found["preprocess"]["resize_mode"] == "shortest"
    again = find_apart("ViT-B-32", "openai", tmp_path, HF_HUB_OFFLINE="1")
    assert (again["kind"], again["checkpoint"]) == ("cache", "open_clip_model.safetensors")


def test_a_repository_and_the_tokenizer_that_it_names(tmp_path: Path) -> None:
    config = {**TOWERS, "text_cfg": {**TOWERS["text_cfg"], "hf_tokenizer_name": "owner/siglip"}}
    files = {
        "open_clip_config.json": json.dumps(
            {"model_cfg": config, "preprocess_cfg": {"resize_mode": "squash"}}
        ).encode(),
        "open_clip_pytorch_model.bin": b"p",
        "model.safetensors": b"t",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "README.md": b"r",
        "code.py": b"raise SystemExit",
    }
    with TinyHub("owner/siglip", files) as hub:
        found = find_apart("hf-hub:owner/siglip", "", tmp_path, HF_ENDPOINT=hub.url)
        assert (found["kind"], found["checkpoint"]) == ("hub", "open_clip_pytorch_model.bin"), found
        assert found["tokenizer"] == ["tokenizer.json", "tokenizer_config.json"]
        assert found["preprocess"] == {"resize_mode": "squash"}
        missing = find_apart("hf-hub:owner/other", "", tmp_path, HF_ENDPOINT=hub.url)
        assert missing["error"] == "not_found"
        assert "no such model" in missing["message"]
    again = find_apart("hf-hub:owner/siglip", "", tmp_path, HF_HUB_OFFLINE="1")
    assert again["kind"] == "cache"


@pytest.mark.slow
def test_a_tokenizer_below_a_source_directory_serves_an_architecture_of_open_clip(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    tokenizer = sources / "timm" / "ViT-B-16-SigLIP"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text("{}")
    (sources / "weights.pt").write_bytes(b"")
    found = find_apart("ViT-B-16-SigLIP", "weights.pt", tmp_path, sources, HF_HUB_OFFLINE="1")
    assert (found["kind"], found["tokenizer"]) == ("file", ["tokenizer.json"]), found
    (tokenizer / "tokenizer.json").unlink()
    missing = find_apart("ViT-B-16-SigLIP", "weights.pt", tmp_path, sources, HF_HUB_OFFLINE="1")
    assert missing["error"] == "not_found"
    assert "timm/ViT-B-16-SigLIP" in missing["message"]
