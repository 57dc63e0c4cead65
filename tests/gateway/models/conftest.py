"""A server of a module's own, which its tests may change as they like."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server


@pytest.fixture(scope="module")
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an empty repository and empty sources, and with the module's SETTINGS if it has any."""
    root = tmp_path_factory.mktemp("own")
    (root / "sources").mkdir()
    settings = {"MODEL_SOURCES": str(root / "sources"), **getattr(request.module, "SETTINGS", {})}
    server = Server(root / "repository", settings, root / "server.log")
    with server.running():
        yield server


@pytest.fixture
def sources(own: Server) -> Path:
    return Path(own.environment["MODEL_SOURCES"])


@pytest.fixture
def api(own: Server) -> Iterator[httpx.Client]:
    with own.client() as client:
        yield client
