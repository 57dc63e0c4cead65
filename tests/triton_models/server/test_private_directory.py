"""Who reaches the embedded Triton, and where its files may lie."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.tiny_onnx import expected
from tests.support.tiny_repository import AS_NOBODY, LOAD_SECONDS, install, shared_memory
from triton_models.client.client import TritonClient
from triton_models.client.errors import EmbeddedTritonError
from triton_models.repository.repository import Repository
from triton_models.server.binary import find_triton
from triton_models.server.embedded import Addresses, EmbeddedTriton

ROWS = np.array([[2, 3, 4]], np.int64)
IMPORT = "import socket, sys; "
ASK = "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


async def with_triton(
    root: Path, work: Callable[[EmbeddedTriton, Addresses], Awaitable[None]]
) -> EmbeddedTriton:
    triton = EmbeddedTriton(root, "off")
    addresses = await triton.start()
    try:
        await work(triton, addresses)
    finally:
        await triton.stop()
    return triton


def asking(program: str, path: Path) -> str:
    """What a program says to standard error."""
    command = [sys.executable, "-I", "-S", "-c", program, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_no_other_user_reaches_it(repository: Repository) -> None:
    install(repository, "tiny", seed=1)

    async def look(triton: EmbeddedTriton, addresses: Addresses) -> None:
        async with TritonClient(addresses.grpc) as client:
            await client.load("tiny", LOAD_SECONDS)
        family = [psutil.Process(triton.pid), *psutil.Process(triton.pid).children(recursive=True)]
        assert len(family) > 1
        # A port of any kind is open to all users of the machine.
        assert [one.net_connections(kind="inet") for one in family] == [[]] * len(family)
        for address in (addresses.grpc, addresses.metrics):
            assert address is not None
            path = Path(address.removeprefix("unix:"))
            assert path.is_socket()
            owner = path.parent.stat()
            assert (owner.st_uid, stat.S_IMODE(owner.st_mode)) == (os.getuid(), 0o700)
            assert not await asyncio.to_thread(asking, IMPORT + ASK, path)
            if os.getuid() == 0:
                assert "PermissionError" in await asyncio.to_thread(asking, IMPORT + AS_NOBODY + ASK, path)

    triton = asyncio.run(with_triton(repository.root, look))
    assert not list(Path("/dev/shm").glob(f"{triton.mark}*"))


def test_what_a_killed_one_left_is_removed_by_the_next_start(repository: Repository) -> None:
    triton = EmbeddedTriton(repository.root, "off")
    left = Path("/dev/shm") / f"{triton.mark}left"
    left.mkdir()
    (left / "models").symlink_to(repository.root)
    (repository.root / "kept").touch()

    async def look(_triton: EmbeddedTriton, _addresses: Addresses) -> None:
        assert not left.exists()

    asyncio.run(with_triton(repository.root, look))
    assert (repository.root / "kept").exists()
    assert not shared_memory(triton.mark)


@pytest.mark.parametrize(
    "name", ["my models", 'it\'s; $(exit 1) & "so" | `x` # * \\', "modèles 模型", "n" * 200]
)
def test_a_repository_of_any_name_serves(tmp_path: Path, name: str) -> None:
    repository = Repository(tmp_path / name / "models")
    recorded = install(repository, "tiny", seed=1)

    async def use(_triton: EmbeddedTriton, addresses: Addresses) -> None:
        async with TritonClient(addresses.grpc) as client:
            await client.load("tiny", LOAD_SECONDS)
            got = await client.infer("tiny", recorded.version, ROWS, timeout=10)
            np.testing.assert_allclose(got, expected(1, ROWS), atol=1e-6)

    asyncio.run(with_triton(repository.root, use))


def test_an_environment_that_path_cannot_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a:b" / "bin" / "python"))
    with pytest.raises(EmbeddedTritonError, match="':' in its path"):
        find_triton(tmp_path / "backends")
