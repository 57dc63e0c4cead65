"""A server with a tiny CLIP model, and hosts that images come from."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from PIL import Image

from tests import tiny_models
from tests.conftest import ROOT, Server
from tests.hostile_host import HostileHost, hostile_hosts
from tests.tiny_clip import config, write_clip

CLIP = "hf-hub:tiny/clip"


@pytest.fixture(autouse=True)
def _pillow_s_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading an image sets it for the whole process, which is the front end's but not the tests'."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(scope="session")
def clip_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clip-sources")
    write_clip(root / "tiny" / "clip", config())
    tiny_models.static_model(root / "tiny" / "static")
    return root


@pytest.fixture(scope="session")
def clip_server(clip_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the CLIP model loaded at start, and a text model."""
    root = tmp_path_factory.mktemp("clip-server")
    settings = {
        "MODEL_SOURCES": str(clip_sources),
        "LOAD_MODELS": f"{CLIP},tiny/static",
        "IMAGE_HOSTS_ALLOWED": "127.0.0.2",
        "IMAGE_FETCH_TIMEOUT": "3",
        "MAX_IMAGE_BYTES": str(1 << 20),
    }
    server = Server(root / "repository", settings, root / "server.log")
    with server.running():
        with server.client() as client:
            assert client.post("/load_clip_model", json={"model_name": CLIP}).status_code == 200
            static = {"model_name": "tiny/static"}
            assert client.post("/load_sentence_transformer_model", json=static).status_code == 200
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


@pytest.fixture(scope="session")
def converted_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model in a repository, to be copied: converted once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "converted-tiny"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            sources = tmp_path_factory.mktemp("converted-tiny-sources")
            tiny_models.static_model(sources / "tiny")
            command = ["-m", "converters", "sentence-transformer", "tiny", "--sources", str(sources)]
            command += ["--output", f"{shared}.new"]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
            os.rename(f"{shared}.new", shared)
            shutil.rmtree(sources)
    return shared / "tiny"


def copy_model(converted: Path, repository: Path, name: str) -> Path:
    """The model under another name, as if it had been converted under it; its directory."""
    directory = repository / name.replace("/", "_")
    shutil.copytree(converted, directory)
    (manifest,) = directory.glob("*/model.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "model_name": name}))
    config = directory / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "tiny"', f'name: "{directory.name}"'))
    return directory
