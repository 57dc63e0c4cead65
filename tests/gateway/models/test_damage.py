"""A repository that someone has damaged by hand: told model by model, and the others serve."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.support import tiny_models
from tests.support.converted_models import NORMALIZED, Stock
from tests.support.vectors import cosines, embed

LOAD = "/load_sentence_transformer_model"
GARBAGE = b"\xff\xfe{ no such thing \x00"


def version(directory: Path) -> Path:
    return next(path.parent for path in directory.glob("*/model.json"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def into_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(GARBAGE)


def into_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_loop(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.name)


def another_tokenizer(directory: Path) -> None:
    """One that can be read and gives other ids."""
    path = version(directory) / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(words, reversed(words.values()), strict=True))
    path.write_text(json.dumps(content))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "config-missing": (lambda model: (model / "config.pbtxt").unlink(), "config.pbtxt is missing"),
    "config-garbage": (
        lambda model: (model / "config.pbtxt").write_bytes(GARBAGE),
        "config.pbtxt is damaged",
    ),
    "config-directory": (lambda model: into_directory(model / "config.pbtxt"), "config.pbtxt is damaged"),
    "manifest-garbage": (lambda model: (version(model) / "model.json").write_bytes(GARBAGE), "model.json"),
    "version-missing": (lambda model: shutil.rmtree(version(model)), "is missing or not complete"),
    "version-file": (lambda model: into_file(version(model)), "is missing or not complete"),
    "version-loop": (lambda model: into_loop(version(model)), "is missing or not complete"),
    "model-cut": (lambda model: cut(version(model) / "model.onnx"), "could not load"),
    "check-garbage": (
        lambda model: (version(model) / "check.npz").write_bytes(GARBAGE),
        "check.npz is damaged",
    ),
    "tokenizer-garbage": (
        lambda model: (version(model) / "tokenizer.json").write_bytes(GARBAGE),
        "tokenizer.json",
    ),
    "tokenizer-other": (another_tokenizer, "tokenizer.json is damaged"),
    "model-file": (into_file, "is no directory"),
    "model-loop": (into_loop, "is no directory"),
    "model-missing": (shutil.rmtree, "the files are missing"),
}
"""By the model's name: what is done to its directory, and what its reason says."""


@pytest.fixture(scope="module")
def own(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every model of DAMAGES, wanted and damaged while no server ran, and a whole one among them."""
    root = tmp_path_factory.mktemp("damage")
    repository = root / "repository"
    states = repository / ".state" / "models"
    states.mkdir(parents=True)
    for name in ("whole", "state-garbage", "state-directory", *DAMAGES):
        (directory,) = stock.put(repository, NORMALIZED, name)
        (states / f"{name}.json").write_text('{"wanted": true}')
        if name in DAMAGES:
            DAMAGES[name][0](directory)
    (states / "state-garbage.json").write_bytes(GARBAGE)
    into_directory(states / "state-directory.json")
    (repository / "stray file").write_bytes(GARBAGE)
    (repository / "stray dïrectory\n'\"$(x)" / "1").mkdir(parents=True)
    (states / "nothing '\" of that näme.json").write_text('{"wanted": true}')
    (repository / ".state" / "trash").mkdir()
    (repository / ".state" / "trash" / "file").write_bytes(GARBAGE)
    tiny_models.static_model(root / "sources" / "config-garbage")
    server = Server(repository, {"MODEL_SOURCES": str(root / "sources")}, root / "server.log")
    with server.running():
        yield server


def models(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in client.get("/repository_models").json()["models"]}


def test_the_whole_one_serves(api: httpx.Client) -> None:
    assert api.get("/health").status_code == 200
    assert api.get("/loaded_models").json()["models"] == ["whole"]
    assert models(api)["whole"] == {**models(api)["whole"], "state": "READY", "reason": None}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_and_removed(own: Server, api: httpx.Client, name: str) -> None:
    shown = models(api)[name]
    # What only a load finds out is known once it was tried.
    reason = shown["reason"] or api.post(LOAD, json={"model_name": name}).json()["detail"]
    assert DAMAGES[name][1] in reason
    assert models(api)[name]["state"] == "FAILED"
    assert str(own.repository) not in reason
    assert "\n" not in reason
    assert api.post("/infer_text", json={"model_name": name, "text": "a dog"}).status_code in (404, 422, 503)
    assert api.post("/delete_model", json={"model_name": name}).status_code == 200
    assert not os.path.lexists(own.repository / name)
    assert name not in models(api)
    assert api.get("/health").status_code == 200


def test_a_damaged_state_is_forgotten(api: httpx.Client) -> None:
    expected = embed(api, ["a dog", "42"], "whole")
    for name in ("state-garbage", "state-directory"):
        assert api.post("/infer_text", json={"model_name": name, "text": "a dog"}).status_code == 404
        assert api.post(LOAD, json={"model_name": name}).status_code == 200
        assert cosines(embed(api, ["a dog", "42"], name), expected).min() > 0.99999


@pytest.mark.slow
def test_a_load_mends_what_can_be_converted_again(own: Server, api: httpx.Client) -> None:
    name = "config-garbage"
    directory = own.repository / name
    # The manifest says that it is this server's.
    (directory / "1").mkdir(parents=True, exist_ok=True)
    for file in ("config.pbtxt", "1/model.json"):
        (directory / file).write_bytes(GARBAGE)
    assert api.post(LOAD, json={"model_name": name}).status_code == 200
    # The source is that of the other models, made in the same way.
    expected = embed(api, ["a dog", "42"], "whole")
    assert cosines(embed(api, ["a dog", "42"], name), expected).min() > 0.9999
