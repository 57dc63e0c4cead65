"""MAX_LOADED_MODELS: what is refused, and what makes room."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gateway.settings import SettingsError, read_settings
from tests.conftest import Server
from tests.support.converted_models import NORMALIZED, Stock
from tests.support.vectors import cosines, embed

LOAD = "/load_sentence_transformer_model"
NAMES = ["m/a", "m/b", "m/c", "m/d"]
TWO_MODELS = {"MAX_LOADED_MODELS": "2"}
LEAST_RECENTLY_USED = {**TWO_MODELS, "EVICT_LEAST_RECENTLY_USED": "true"}


def server_on(stock: Stock, root: Path, settings: dict[str, str]) -> Server:
    """With four models that are the same but for the name."""
    for name in NAMES:
        stock.put(root / "repository", NORMALIZED, name)
    return Server(root / "repository", settings, root / "server.log")


@pytest.fixture
def refusing(stock: Stock, tmp_path: Path) -> Iterator[Server]:
    with server_on(stock, tmp_path, TWO_MODELS).running() as server:
        yield server


def load(client: httpx.Client, name: str) -> httpx.Response:
    return client.post(LOAD, json={"model_name": name})


def loaded(client: httpx.Client) -> list[str]:
    found: list[str] = client.get("/loaded_models").json()["models"]
    return found


def test_a_model_too_many_is_refused(refusing: Server) -> None:
    with refusing.client() as client, ThreadPoolExecutor() as threads:
        # All at once: whoever comes first, no more than two find room.
        answers = list(threads.map(lambda name: load(client, name), NAMES))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 507, 507]
        there = loaded(client)
        assert len(there) == 2
        refused = next(answer for answer in answers if answer.status_code == 507).json()["detail"]
        assert "MAX_LOADED_MODELS is 2" in refused
        assert all(served.replace("_", "/") in refused for served in there)
        # A name that would have to be converted is refused before that is tried.
        assert load(client, "not/there").status_code == 507
        # Another tuning of a loaded model is not one more.
        name = there[0].replace("_", "/")
        assert client.post(LOAD, json={"model_name": name, "instances": 2}).status_code == 200
        assert client.post("/unload_model", json={"model_name": name}).status_code == 200
        other = next(name for name in NAMES if name.replace("/", "_") not in there)
        assert load(client, other).status_code == 200
        before = loaded(client)
    # What fitted comes back; with less room the first by name does, and the rest is let go, with the reason.
    refusing.stop()
    refusing.environment["MAX_LOADED_MODELS"] = "1"
    refusing.start()
    refusing.wait_healthy()
    with refusing.client() as client:
        assert loaded(client) == before[:1]
        models = {model["name"]: model for model in client.get("/repository_models").json()["models"]}
        assert models[before[1]]["state"] == "FAILED"
        assert "MAX_LOADED_MODELS is 1" in models[before[1]]["reason"]


def test_the_least_recently_used_makes_room(stock: Stock, tmp_path: Path) -> None:
    server = server_on(stock, tmp_path, LEAST_RECENTLY_USED)
    with server.running(), server.client() as client:
        for name in NAMES[:2]:
            assert load(client, name).status_code == 200
        expected = embed(client, ["a dog"], "m/a")
        time.sleep(1.1)
        # From Triton's cache, which counts as use.
        assert cosines(embed(client, ["a dog"], "m/a"), expected).min() > 0.99999
        time.sleep(1.1)
        assert load(client, "m/c").status_code == 200
        assert loaded(client) == ["m_a", "m_c"]
        assert client.post("/infer_text", json={"model_name": "m/b", "text": "a dog"}).status_code == 404
        assert cosines(embed(client, ["a dog"], "m/c"), expected).min() > 0.99999
        assert load(client, "m/b").status_code == 200
        assert loaded(client) == ["m_b", "m_c"]


def test_more_is_named_than_may_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_LOADED_MODELS", "1")
    monkeypatch.setenv("LOAD_MODELS", "m/a,m/b")
    with pytest.raises(SettingsError, match="LOAD_MODELS: names 2 models, MAX_LOADED_MODELS is 1"):
        read_settings()
