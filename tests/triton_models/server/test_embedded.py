"""One run of the embedded Triton: what its end, its stubs and its start can do."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import tiny_image
from tests.support.tiny_onnx import expected
from tests.support.tiny_repository import LOAD_SECONDS, alive, install, shared_memory, stubs
from tests.support.waiting import wait_until
from triton_models.client.client import TritonClient
from triton_models.client.errors import EmbeddedTritonError, TritonTimeout, TritonUnavailable
from triton_models.contract.config import DEFAULT_MAX_BATCH_SIZE
from triton_models.repository.repository import Repository
from triton_models.server.embedded import CRASH_POLL_SECONDS, EmbeddedTriton, Ports, state_directory
from triton_models.server.processes import activity, children

ROWS = np.array([[2, 3, 4]], np.int64)


def test_stubs_end_with_triton_in_the_middle_of_their_work(repository: Repository) -> None:
    # Left to itself, a stub whose Triton is killed just after an answer hangs for ever, more often than not.
    recorded = install(repository, "tiny", seed=1)

    async def run() -> None:
        for _ in range(3):
            triton = EmbeddedTriton(repository.root, "off")
            addresses = await triton.start()
            async with TritonClient(addresses.grpc) as client:
                await client.load("tiny", LOAD_SECONDS)
                running = stubs(triton.pid)
                await client.infer("tiny", recorded.version, ROWS, timeout=10)
                os.kill(triton.pid, signal.SIGKILL)
            await asyncio.to_thread(_wait_for_end, running)
            assert not shared_memory(triton.mark)
            await triton.kill()

    asyncio.run(run())


def test_a_stub_that_cannot_start_ends_the_load_with_an_error(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)

    async def run() -> None:
        # The stub is replaced after the start, for the start checks it.
        triton = EmbeddedTriton(repository.root, "off")
        addresses = await triton.start()
        stub = state_directory(repository.root) / "backends" / "python" / "triton_python_backend_stub"
        stub.unlink()
        stub.symlink_to("/bin/false")
        try:
            async with TritonClient(addresses.grpc) as client:
                with pytest.raises(TritonTimeout):
                    await client.load("tiny", 1.5)
            assert [child for child in children(triton.pid) if (seen := activity(child)) and seen.ended]
        finally:
            await triton.stop()
        # The next start makes the backends anew.
        addresses = await triton.start()
        try:
            async with TritonClient(addresses.grpc) as client:
                await client.load("tiny", LOAD_SECONDS)
                await client.infer("tiny", recorded.version, ROWS, timeout=5)
        finally:
            await triton.stop()

    asyncio.run(run())


MOST_ROWS = np.tile(ROWS, (DEFAULT_MAX_BATCH_SIZE, 1))


@pytest.mark.parametrize(
    ("rows", "asked"), [(ROWS, 1), (MOST_ROWS, 1), (ROWS, 2)], ids=["once", "no row more", "twice"]
)
def test_a_failure_that_the_cache_kept_does_not_stay(
    repository: Repository, rows: NDArray[np.int64], asked: int
) -> None:
    """Triton caches failures of the Python backend; seen when a stub was killed under a request."""
    recorded = install(repository, "tiny", seed=1)

    async def run(client: TritonClient, kill: Callable[[], None]) -> None:
        await client.load("tiny", LOAD_SECONDS)
        kill()
        # The second one finds the first one's failure in the cache, passes it by, and fails as well.
        for _ in range(asked):
            with pytest.raises(TritonUnavailable):
                await client.infer("tiny", recorded.version, rows, timeout=10)
        # Never really gone, but a new stub takes its place.
        with pytest.raises(TritonTimeout):
            await client.unload("tiny", 1.0)
        await client.load("tiny", LOAD_SECONDS)
        for _ in range(2):
            got = await client.infer("tiny", recorded.version, rows, timeout=10)
            np.testing.assert_allclose(got, expected(1, rows), atol=1e-6)

    asyncio.run(_with_a_stub_to_kill(repository, run))


def test_a_failure_of_an_image_that_the_cache_kept_does_not_stay(repository: Repository) -> None:
    recorded, pixels = tiny_image.install(repository, "image", seed=1), tiny_image.images(1)

    async def run(client: TritonClient, kill: Callable[[], None]) -> None:
        await client.load("image", LOAD_SECONDS)
        kill()
        for _ in range(2):
            with pytest.raises(TritonUnavailable):
                await client.infer_images("image", recorded.version, pixels, timeout=10)
        await client.release("image", LOAD_SECONDS)
        await client.load("image", LOAD_SECONDS)
        got = await client.infer_images("image", recorded.version, pixels, timeout=10)
        np.testing.assert_allclose(got, tiny_image.expected(1, pixels), rtol=1e-4, atol=1e-3)

    asyncio.run(_with_a_stub_to_kill(repository, run))


async def _with_a_stub_to_kill(
    repository: Repository, run: Callable[[TritonClient, Callable[[], None]], Awaitable[None]]
) -> None:
    """A Triton with a cache, and what kills the process of its one model."""
    triton = EmbeddedTriton(repository.root, "local:1048576")
    addresses = await triton.start()
    try:
        async with TritonClient(addresses.grpc) as client:
            await run(client, lambda: os.kill(stubs(triton.pid)[0], signal.SIGKILL))
    finally:
        await triton.kill()


def test_a_triton_that_hangs_in_its_crash_is_ended(repository: Repository) -> None:
    install(repository, "tiny", seed=1)

    async def run() -> None:
        # What a crash says first, once from a real one, which ends by itself.
        triton = EmbeddedTriton(repository.root, "off")
        await triton.start()
        os.kill(triton.pid, signal.SIGSEGV)
        await asyncio.wait_for(triton.wait(), 30)
        said = next(line for line in triton.log_path.read_bytes().splitlines() if line.startswith(b"Signal"))
        await triton.kill()

        addresses = await triton.start()
        async with TritonClient(addresses.grpc) as client:
            await client.load("tiny", LOAD_SECONDS)
        running = stubs(triton.pid)
        waiting = asyncio.ensure_future(triton.wait())
        os.kill(triton.pid, signal.SIGSTOP)
        with triton.log_path.open("ab") as log:
            for part in (said[:9], said[9:], b"\n 0# "):
                log.write(part)
                log.flush()
                assert not waiting.done()
                await asyncio.sleep(2 * CRASH_POLL_SECONDS)
        assert await asyncio.wait_for(waiting, 30) == -signal.SIGKILL
        await asyncio.to_thread(_wait_for_end, running)
        assert not shared_memory(triton.mark)

    asyncio.run(run())


def test_a_triton_that_cannot_start_says_why(repository: Repository) -> None:
    async def run(port: int) -> None:
        triton = EmbeddedTriton(repository.root, "off", ports=Ports(port, 0))
        with pytest.raises(EmbeddedTritonError, match="ended while starting") as raised:
            await triton.start()
        assert str(port) in str(raised.value)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(run(taken.getsockname()[1]))


def _wait_for_end(pids: list[int]) -> None:
    wait_until(lambda: not any(alive(pid) for pid in pids), seconds=2)
