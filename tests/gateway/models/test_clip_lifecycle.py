"""The towers of a CLIP model are loaded, unloaded, deleted and restored as one."""

import base64
import json
import shutil
import signal
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import Server
from tests.support.converted_models import CLIP, Stock
from tests.support.pictures import PICTURES
from tests.support.tiny_clip import config, write_clip

IMAGE = base64.b64encode(PICTURES["png"]()).decode()
LOAD = "/load_clip_model"


def load(client: httpx.Client, name: str) -> httpx.Response:
    return client.post(LOAD, json={"model_name": name})


def towers(name: str) -> tuple[str, str]:
    stem = name.replace(":", "_").replace("/", "_")
    return f"{stem}_text_encoder", f"{stem}_image_encoder"


def statuses(client: httpx.Client, name: str) -> list[int]:
    """Of a text and of an image."""
    bodies = ({"model_name": name, "text": "a dog"}, {"model_name": name, "image": IMAGE})
    return [client.post("/infer", json=body).status_code for body in bodies]


def loaded(client: httpx.Client, name: str) -> int:
    """How many of the towers."""
    return len(set(towers(name)) & set(client.get("/loaded_models").json()["models"]))


def states(client: httpx.Client) -> dict[str, str]:
    return {model["name"]: model["state"] for model in client.get("/repository_models").json()["models"]}


def test_a_pair_from_load_to_delete(api: httpx.Client, sources: Path, own: Server) -> None:
    name = "hf-hub:one/life"
    write_clip(sources / "one" / "life", config())
    assert statuses(api, name) == [404, 404]
    with api.stream(
        "POST", LOAD, json={"model_name": name}, headers={"Accept": "application/x-ndjson"}
    ) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert {"convert", "verify", "load", "ready"} <= {line["step"] for line in lines[:-1]}
    assert lines[-1] == {"message": f"Model {name} is loaded."}
    assert statuses(api, name) == [200, 200]
    assert loaded(api, name) == 2

    unloaded = api.post("/unload_model", json={"model_name": name, "pretrained": ""})
    assert unloaded.json() == {"message": f"Model {name} is unloaded."}
    assert loaded(api, name) == 0
    assert statuses(api, name) == [404, 404]
    assert api.post("/unload_model", json={"model_name": name}).status_code == 404

    assert load(api, name).status_code == 200
    assert statuses(api, name) == [200, 200]
    assert api.post("/delete_model", json={"model_name": name}).status_code == 200
    assert not set(towers(name)) & set(states(api))
    assert not any((own.repository / tower).exists() for tower in towers(name))
    assert api.post("/delete_model", json={"model_name": name}).status_code == 404


@pytest.fixture
def unloaded(own: Server, api: httpx.Client, stock: Stock) -> str:
    """A model's name; it is whole and not loaded."""
    name = "hf-hub:the/pair"
    api.post("/delete_model", json={"model_name": name})
    stock.put(own.repository, CLIP, name)
    return name


def spoil(own: Server, tower: str) -> None:
    """Give a tower other reference vectors, which Triton's answers cannot meet."""
    path = next((own.repository / tower).glob("*/check.npz"))
    with np.load(path) as arrays:
        content = dict(arrays)
    content["embeddings"] = content["embeddings"][::-1] * -1
    with path.open("wb") as file:
        np.savez(file, **content)


@pytest.mark.parametrize("which", [0, 1])
def test_one_tower_that_fails_its_check_takes_the_other_along(
    api: httpx.Client, own: Server, unloaded: str, which: int
) -> None:
    spoil(own, towers(unloaded)[which])
    answer = load(api, unloaded)
    assert answer.status_code == 422
    assert "differs from the reference" in answer.json()["detail"]
    assert loaded(api, unloaded) == 0
    assert statuses(api, unloaded) == [404, 404]
    assert {states(api)[tower] for tower in towers(unloaded)} == {"FAILED"}


@pytest.mark.parametrize("which", [0, 1])
def test_one_tower_that_cannot_be_loaded_takes_the_other_along(
    api: httpx.Client, own: Server, unloaded: str, which: int
) -> None:
    model = next((own.repository / towers(unloaded)[which]).glob("*/model.onnx"))
    model.write_bytes(model.read_bytes()[:1000])
    assert load(api, unloaded).status_code == 422
    assert loaded(api, unloaded) == 0
    assert statuses(api, unloaded) == [404, 404]


@pytest.mark.parametrize("which", [0, 1])
def test_half_a_pair_is_no_model_and_can_be_removed(
    api: httpx.Client, own: Server, unloaded: str, which: int
) -> None:
    shutil.rmtree(own.repository / towers(unloaded)[which])
    assert statuses(api, unloaded) == [404, 404]
    assert api.post("/delete_model", json={"model_name": unloaded}).status_code == 200
    assert not set(towers(unloaded)) & set(states(api))


@pytest.mark.slow
def test_halves_of_two_conversions_are_no_model(
    api: httpx.Client, sources: Path, own: Server, stock: Stock
) -> None:
    name = "hf-hub:two/conversions"
    write_clip(sources / "two" / "conversions", config(embed_dim=12))
    assert load(api, name).status_code == 200
    api.post("/unload_model", json={"model_name": name})
    for tower in towers(name):
        shutil.move(own.repository / tower, own.repository.parent / tower)
    stock.put(own.repository, CLIP, name)
    shutil.rmtree(own.repository / towers(name)[0])
    shutil.move(own.repository.parent / towers(name)[0], own.repository)
    assert statuses(api, name) == [404, 404]
    assert load(api, name).status_code == 200
    answer = api.post("/infer", json={"model_name": name, "text": "a", "image": IMAGE}).json()
    assert len(answer["text_embeddings"][0]) == len(answer["image_embeddings"][0]) == 12


@pytest.mark.slow
def test_a_checkpoint_file_by_its_name(api: httpx.Client) -> None:
    answer = api.post(LOAD, json={"model_name": "ViT-B-32", "pretrained": "no-such.pt"})
    assert answer.status_code == 404
    assert "no-such.pt" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"model_name": "ViT-B-32"},
        {"model_name": "ViT-B-32", "pretrained": ""},
        {"model_name": "ViT-B-32", "pretrained": "../x.pt"},
        {"model_name": "ViT-B-32", "pretrained": "/etc/passwd"},
        {"model_name": "ViT-B-32", "pretrained": "-rf"},
        {"model_name": "hf-hub:../x"},
        {"model_name": "hf-hub:a/b", "pretrained": "openai"},
        {"model_name": "local-dir:/etc"},
        {"model_name": "a/b/c", "pretrained": "x"},
    ],
)
def test_names_that_cannot_be_a_models(api: httpx.Client, body: dict[str, str]) -> None:
    assert api.post(LOAD, json=body).status_code == 422


def test_a_pair_comes_back_whole(api: httpx.Client, own: Server, unloaded: str) -> None:
    assert load(api, unloaded).status_code == 200
    own.signal(signal.SIGKILL)
    assert own.process is not None
    own.process.wait()
    log = own.log.read_text()
    own.start()
    own.wait_healthy()
    deadline = time.monotonic() + 60
    with own.client() as again:
        while statuses(again, unloaded) != [200, 200]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert loaded(again, unloaded) == 2
    assert "convert " not in own.log.read_text().removeprefix(log)
