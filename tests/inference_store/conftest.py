"""One real Triton for the tests of this directory, with models of its Python backend."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference_store import processes
from tests.inference_store.models import CONFIGS, write_models


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.RunningTriton]:
    directory = tmp_path_factory.mktemp("triton")
    write_models(directory / "models")
    with processes.triton(directory, directory / "models", tuple(CONFIGS)) as running:
        yield running


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "store.log"
