"""A real Triton for the tests of this directory, started as `python -m triton_models.server`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_repository import RunningTriton
from triton_models.repository.repository import Repository

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTriton]:
    """One for all tests that do not harm it; each uses model names of its own."""
    repository = Repository(tmp_path_factory.mktemp("triton") / "models")
    command = [sys.executable, "-m", "triton_models.server", f"--repository={repository.root}"]
    process = subprocess.Popen(
        [*command, "--grpc-port=0", "--metrics-port=0"], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert "TRITON_GRPC_ADDRESS=" in lines[1], lines
    url = lines[1].split("TRITON_GRPC_ADDRESS=")[1].split()[0]
    yield RunningTriton(repository, url)
    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()
