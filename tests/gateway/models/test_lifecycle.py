"""Loading, unloading and deleting over HTTP, with real conversions of tiny models."""

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from filelock import FileLock
from sentence_transformers import SentenceTransformer

from tests.conftest import Server
from tests.support import tiny_models
from tests.support.converted_models import BERT, Stock
from tests.support.vectors import cosines, embed
from triton_models.repository.repository import Repository

LOAD = "/load_sentence_transformer_model"
SETTINGS = {"LOAD_TIMEOUT": "20"}


@pytest.fixture
def put(own: Server, stock: Stock) -> Callable[[str], Path]:
    """Copy a converted model into the repository under a name; its directory."""
    return lambda name: stock.put(own.repository, BERT, name)[0]


def load(client: httpx.Client, name: str) -> httpx.Response:
    return client.post(LOAD, json={"model_name": name})


def states(client: httpx.Client) -> dict[str, str]:
    return {model["name"]: model["state"] for model in client.get("/repository_models").json()["models"]}


def version(client: httpx.Client, served: str) -> str:
    stats = client.get("/metrics").json()["model_stats"]
    return next(str(model["version"]) for model in stats if model["name"] == served)


def test_a_model_from_load_to_delete(api: httpx.Client, sources: Path) -> None:
    tiny_models.transformer_model(sources / "one" / "life")
    assert embed_status(api, "one/life") == 404

    answer = load(api, "one/life")
    assert (answer.status_code, answer.json()) == (200, {"message": "Model one/life is loaded."})
    assert load(api, "one/life").json() == {"message": "Model one/life is already loaded."}
    assert "one_life" in api.get("/loaded_models").json()["models"]
    assert states(api)["one_life"] == "READY"
    reference = SentenceTransformer(str(sources / "one" / "life"), device="cpu")
    assert cosines(embed(api, ["a dog"], "one/life"), reference.encode(["a dog"])).min() >= 0.9999

    assert api.post("/unload_model", json={"model_name": "one/life"}).status_code == 200
    assert "one_life" not in api.get("/loaded_models").json()["models"]
    assert states(api)["one_life"] == "UNAVAILABLE"
    assert embed_status(api, "one/life") == 404
    assert api.post("/unload_model", json={"model_name": "one/life"}).status_code == 404

    assert load(api, "one/life").status_code == 200
    assert api.post("/delete_model", json={"model_name": "one/life"}).status_code == 200
    assert "one_life" not in states(api)
    assert not (sources.parent / "repository" / "one_life").exists()
    assert api.post("/delete_model", json={"model_name": "one/life"}).status_code == 404


def embed_status(client: httpx.Client, name: str) -> int:
    return client.post("/infer_text", json={"model_name": name, "text": "a dog"}).status_code


def test_two_loads_at_once_convert_once(api: httpx.Client, sources: Path, own: Server) -> None:
    tiny_models.static_model(sources / "two" / "at-once")
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda _: load(api, "two/at-once"), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert own.log.read_text().count("two/at-once: load   0 %") == 1


@pytest.mark.slow
def test_progress_is_a_line_a_step_and_the_last_the_answer(api: httpx.Client, sources: Path) -> None:
    tiny_models.static_model(sources / "with" / "progress")
    with api.stream(
        "POST", LOAD, json={"model_name": "with/progress"}, headers={"Accept": "application/x-ndjson"}
    ) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    steps = [line["step"] for line in lines[:-1]]
    assert {"convert", "verify", "load", "ready"} <= set(steps)
    assert all(0 <= line["progress"] <= 1 and line["message"] for line in lines[:-1])
    assert lines[-1] == {"message": "Model with/progress is loaded."}


def test_progress_of_a_failing_load_ends_with_the_error(api: httpx.Client) -> None:
    headers = {"Accept": "application/x-ndjson"}
    answer = api.post(LOAD, json={"model_name": "no/such-model"}, headers=headers)
    last = json.loads(answer.text.splitlines()[-1])
    assert last["status"] == 404
    assert "no/such-model" in last["detail"]


@pytest.mark.slow
def test_serving_goes_on_while_another_model_converts(
    api: httpx.Client, sources: Path, own: Server, put: Callable[[str], Path]
) -> None:
    put("busy/serving")
    assert load(api, "busy/serving").status_code == 200
    tiny_models.transformer_model(sources / "busy" / "converting", "roberta")

    def convert() -> None:
        with own.client() as client:
            assert load(client, "busy/converting").status_code == 200

    loading = threading.Thread(target=convert)
    loading.start()
    served = 0
    while loading.is_alive():
        assert embed_status(api, "busy/serving") == 200
        served += 1
    assert served > 20


@pytest.mark.slow
def test_new_weights_under_the_same_name_are_new_vectors(api: httpx.Client, sources: Path) -> None:
    path = sources / "changing" / "weights"
    tiny_models.static_model(path, seed=1)
    assert load(api, "changing/weights").status_code == 200
    old, old_version = embed(api, ["a dog"], "changing/weights"), version(api, "changing_weights")

    for unload in (False, True):
        shutil.rmtree(path)
        tiny_models.static_model(path, seed=3 if unload else 2)
        if unload:
            assert api.post("/unload_model", json={"model_name": "changing/weights"}).status_code == 200
        assert load(api, "changing/weights").status_code == 200
        new = embed(api, ["a dog"], "changing/weights")
        reference = SentenceTransformer(str(path), device="cpu").encode(["a dog"])
        assert cosines(new, reference).min() >= 0.9999
        assert cosines(new, old).max() < 0.99
        assert version(api, "changing_weights") != old_version


def test_tuning_is_written_into_the_models_configuration(
    api: httpx.Client, put: Callable[[str], Path]
) -> None:
    put("tuned")
    assert load(api, "tuned").status_code == 200
    texts = [f"a {number}" for number in range(20)]
    before = embed(api, texts, "tuned")
    tuning = {
        "max_batch_size": 4,
        "max_queue_delay_microseconds": 100,
        "instances": 2,
        "response_cache": False,
        "max_queue_size": 500,
    }
    answer = api.post(LOAD, json={"model_name": "tuned", **tuning})
    assert answer.json() == {"message": "Model tuned is loaded."}
    shown = next(one for one in api.get("/repository_models").json()["models"] if one["name"] == "tuned")
    assert shown["tuning"] == tuning
    assert shown["engine"]["engine"] in [one["engine"] for one in shown["engine"]["measured"]]
    # More rows of one length than Triton now takes at once, by what the front end knew before.
    assert cosines(embed(api, texts, "tuned"), before).min() > 0.99999
    # The cache is off: what was asked for before is computed again.
    assert cosines(embed(api, texts[:1], "tuned"), before[:1]).min() > 0.99999
    stats = next(one for one in api.get("/metrics").json()["model_stats"] if one["name"] == "tuned")
    assert int(stats["inference_stats"].get("cache_hit", {}).get("count", 0)) == 0
    # What is not given stays.
    assert load(api, "tuned").json() == {"message": "Model tuned is already loaded."}
    assert api.post("/unload_model", json={"model_name": "tuned"}).status_code == 200
    assert load(api, "tuned").status_code == 200
    shown = next(one for one in api.get("/repository_models").json()["models"] if one["name"] == "tuned")
    assert shown["tuning"] == tuning


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch_size", 0),
        ("max_batch_size", 100_000),
        ("max_queue_delay_microseconds", -1),
        ("instances", 0),
        ("instances", "many"),
        ("response_cache", "perhaps"),
        ("max_queue_size", -1),
    ],
)
def test_tuning_that_cannot_be(api: httpx.Client, name: str, value: object) -> None:
    answer = api.post(LOAD, json={"model_name": "tuned", name: value})
    assert answer.status_code == 422
    assert name in answer.json()["detail"]


def test_colliding_names_are_refused(api: httpx.Client, sources: Path, put: Callable[[str], Path]) -> None:
    put("same/name_x")
    tiny_models.static_model(sources / "same_name" / "x")
    assert load(api, "same/name_x").status_code == 200
    answer = load(api, "same_name/x")
    assert answer.status_code == 409
    assert "same/name_x" in answer.json()["detail"]
    assert embed_status(api, "same_name/x") == 404
    assert api.post("/delete_model", json={"model_name": "same_name/x"}).status_code == 404
    assert embed_status(api, "same/name_x") == 200


@pytest.mark.parametrize("route", [LOAD, "/unload_model", "/delete_model"])
@pytest.mark.parametrize("name", ["..", "a/../b", "/etc", "a/b/c", "a\0", "-a", "a" * 300, "", ".state"])
def test_names_that_cannot_be_a_models(api: httpx.Client, route: str, name: str) -> None:
    answer = api.post(route, json={"model_name": name})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("model_name: ")


@pytest.mark.parametrize("route", ["/unload_model", "/delete_model"])
def test_what_is_not_there_cannot_be_removed(api: httpx.Client, route: str) -> None:
    assert api.post(route, json={"model_name": "not/there"}).status_code == 404


def test_a_source_that_is_not_a_model(api: httpx.Client, sources: Path) -> None:
    (sources / "just" / "files").mkdir(parents=True)
    (sources / "just" / "files" / "notes.txt").write_text("nothing of use")
    answer = load(api, "just/files")
    assert answer.status_code == 422
    assert str(sources) not in answer.text
    assert states(api)["just_files"] == "FAILED"
    shutil.rmtree(sources / "just" / "files")
    tiny_models.static_model(sources / "just" / "files")
    assert load(api, "just/files").status_code == 200
    assert states(api)["just_files"] == "READY"


def test_half_of_the_weights(api: httpx.Client, sources: Path) -> None:
    path = sources / "half" / "weights"
    tiny_models.transformer_model(path)
    weights = next(path.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert load(api, "half/weights").status_code == 422
    assert not (sources.parent / "repository" / "half_weights").exists()


def test_a_load_waits_for_the_check_of_a_model_that_is_loaded_again(
    own: Server, api: httpx.Client, put: Callable[[str], Path]
) -> None:
    put("loaded/again")
    assert load(api, "loaded/again").status_code == 200
    repository = Repository(own.repository)
    with ThreadPoolExecutor(1) as threads:
        with FileLock(repository.lock_path("loaded_again")):
            # As while the model comes back: Triton has it already, its check is under way.
            before = repository.state("loaded_again")
            repository.set_state("loaded_again", replace(before, activity="loading"))
            answer = threads.submit(load, api, "loaded/again")
            assert not wait([answer], timeout=2).done
        assert answer.result(60).status_code == 200
    assert embed_status(api, "loaded/again") == 200


@pytest.mark.slow
def test_a_backend_that_cannot_start_is_an_error_in_time(
    own: Server, api: httpx.Client, put: Callable[[str], Path]
) -> None:
    put("stub/fine")
    put("stub/broken")
    assert load(api, "stub/fine").status_code == 200
    stub = next(own.repository.glob(".state/triton/*/backends/python/triton_python_backend_stub"))
    stub.unlink()
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    answer = load(api, "stub/broken")
    # Triton waits for the process for ever; after LOAD_TIMEOUT this is given up.
    assert answer.status_code == 504
    assert "stub/broken" in answer.json()["detail"]
    # Triton is started anew with a sound backend; what was loaded is loaded again, and now this is too.
    own.wait_healthy()
    assert load(api, "stub/broken").status_code == 200
    assert load(api, "stub/fine").status_code == 200
    assert np.isfinite(embed(api, ["a dog"], "stub/fine")).all()
