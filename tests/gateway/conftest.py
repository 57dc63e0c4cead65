"""A server with a tiny CLIP model, and hosts that images come from."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import Server
from tests.support.converted_models import CLIP, LABELS, RANKER, STATIC, Stock
from tests.support.hostile_host import HostileHost, hostile_hosts


@pytest.fixture(autouse=True)
def _pillow_s_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading an image sets it for the whole process, which is the front end's but not the tests'."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(scope="session")
def clip_server(
    stock: Stock, model_sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """With the CLIP model loaded at start, and a text model."""
    root = tmp_path_factory.mktemp("clip-server")
    for name in (CLIP, STATIC):
        stock.put(root / "repository", name)
    settings = {
        "MODEL_SOURCES": str(model_sources),
        "LOAD_MODELS": f"{CLIP},{STATIC}",
        "IMAGE_HOSTS_ALLOWED": "127.0.0.2",
        "IMAGE_FETCH_TIMEOUT": "3",
        "MAX_IMAGE_BYTES": str(1 << 20),
    }
    server = Server(root / "repository", settings, root / "server.log")
    with server.running():
        with server.client() as client:
            assert client.post("/load_clip_model", json={"model_name": CLIP}).status_code == 200
            static = {"model_name": STATIC}
            assert client.post("/load_sentence_transformer_model", json=static).status_code == 200
        yield server


@pytest.fixture(scope="session")
def rank_server(
    stock: Stock, model_sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with the cross-encoder of one label, and a text model."""
    root = tmp_path_factory.mktemp("rank-server")
    for name in (RANKER, LABELS, STATIC):
        stock.put(root / "repository", name)
    settings = {"MODEL_SOURCES": str(model_sources), "LOAD_MODELS": f"{RANKER},{STATIC}"}
    server = Server(root / "repository", settings, root / "server.log")
    with server.running():
        with server.client() as client:
            for name in (RANKER, STATIC):
                answer = client.post("/load_sentence_transformer_model", json={"model_name": name})
                assert answer.status_code == 200, answer.text
        yield server


@pytest.fixture
def api(clip_server: Server) -> Iterator[httpx.Client]:
    with clip_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def hosts() -> Iterator[tuple[HostileHost, HostileHost]]:
    """One that IMAGE_HOSTS_ALLOWED names, and one beside it that it does not."""
    with hostile_hosts() as both:
        yield both


@pytest.fixture
def host(hosts: tuple[HostileHost, HostileHost]) -> HostileHost:
    return hosts[0]
