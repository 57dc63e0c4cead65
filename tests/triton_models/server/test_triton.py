"""One Triton for several processes, and every way in which it or they can end."""

import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.tiny_onnx import expected
from tests.support.tiny_repository import LOAD_SECONDS, alive, install, shared_memory, stubs
from tests.support.waiting import wait_until
from triton_models.client.client import TritonClient
from triton_models.client.errors import TritonError, TritonUnavailable
from triton_models.contract.manifest import Manifest
from triton_models.repository.repository import Repository
from triton_models.server.embedded import EmbeddedTriton, state_directory
from triton_models.server.triton import Triton

PROJECT = Path(__file__).parents[3]
ROWS = np.array([[2, 3, 4]], np.int64)


async def wait_ready(triton: Triton) -> None:
    async with asyncio.timeout(30):
        while True:
            with suppress(TritonUnavailable):
                if await triton.client.server_ready(1.0):
                    return
            await asyncio.sleep(0.05)


class Worker:
    """A process of `worker.py` and what it last said."""

    def __init__(self, root: Path) -> None:
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.triton_worker", str(root)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def address(self, *, other_than: str | None = None) -> str:
        """Where it says that Triton answers; waits until it says so."""
        while True:
            said = self._lines.get(timeout=30)["grpc"]
            if said is not None and said != other_than:
                return str(said)

    def ask_for_restart(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("restart\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def workers(repository: Repository, count: int) -> Iterator[list[Worker]]:
    """So many, the first of them the owner."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            started.append(Worker(repository.root))
            stack.callback(started[-1].end)
            if len(started) == 1:
                wait_until((state_directory(repository.root) / "owner.lock").exists)
                wait_until((state_directory(repository.root) / "server.json").exists)
        yield started


def mark(repository: Repository) -> str:
    return EmbeddedTriton(repository.root, "off").mark


def triton_pid(repository: Repository) -> int:
    record = json.loads((state_directory(repository.root) / "server.json").read_text())
    return int(record["pid"])


def load_and_infer(address: str, recorded: Manifest, seed: int = 1) -> None:
    async def run() -> None:
        async with TritonClient(address) as client:
            await client.load(recorded.model_name, LOAD_SECONDS)
            got = await client.infer(recorded.model_name, recorded.version, ROWS, timeout=10)
            np.testing.assert_allclose(got, expected(seed, ROWS), atol=1e-6)

    asyncio.run(run())


def test_processes_share_one_triton(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)
    with workers(repository, 3) as started:
        addresses = {worker.address() for worker in started}
        assert len(addresses) == 1
        load_and_infer(addresses.pop(), recorded)
        family = psutil.process_iter(["name", "cmdline"])
        tritons = [
            each
            for each in family
            if each.info["name"] == "tritonserver" and mark(repository) in " ".join(each.info["cmdline"])
        ]
        assert len(tritons) == 1


def test_triton_and_stubs_end_with_an_owner_that_is_killed(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)
    with workers(repository, 1) as [owner]:
        load_and_infer(owner.address(), recorded)
        pid = triton_pid(repository)
        children = stubs(pid)
        assert len(children) == 1
        owner.process.kill()
        wait_until(lambda: not any(alive(each) for each in (pid, *children)), seconds=2)
        assert not shared_memory(mark(repository))


@pytest.mark.slow
def test_another_process_takes_over_from_a_killed_owner(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)
    with workers(repository, 2) as [owner, follower]:
        before = owner.address()
        assert follower.address() == before
        load_and_infer(before, recorded)
        owner.process.kill()
        load_and_infer(follower.address(other_than=before), recorded)


def test_triton_comes_back_after_it_was_killed(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)
    with workers(repository, 2) as started:
        before = started[0].address()
        assert started[1].address() == before
        load_and_infer(before, recorded)
        os.kill(triton_pid(repository), signal.SIGKILL)
        after = [worker.address(other_than=before) for worker in started]
        assert after[0] == after[1]
        load_and_infer(after[0], recorded)


def test_a_models_process_that_was_killed_is_replaced_alone(repository: Repository) -> None:
    seeds = {"tiny": 1, "other": 2}
    recorded = {name: install(repository, name, seed=seed) for name, seed in seeds.items()}

    async def run() -> None:
        async with Triton(repository.root, "off") as triton:
            await wait_ready(triton)
            client, processes = triton.client, triton.stubs
            assert processes is not None
            for name in seeds:
                await client.load(name, LOAD_SECONDS)
            processes.find()
            processes.kill("tiny")
            await asyncio.to_thread(wait_until, lambda: processes.of("tiny")[0].ended)
            assert not processes.of("other")[0].ended
            with pytest.raises(TritonUnavailable):
                await client.infer("tiny", recorded["tiny"].version, ROWS, timeout=5)
            await client.release("tiny", 5)
            await client.load("tiny", LOAD_SECONDS)
            processes.find()
            assert [one.ended for one in processes.of("tiny")] == [False]
            assert processes.left == 1
            for name, seed in seeds.items():
                got = await client.infer(name, recorded[name].version, ROWS, timeout=5)
                np.testing.assert_allclose(got, expected(seed, ROWS), atol=1e-6)

    asyncio.run(run())


@pytest.mark.slow
def test_any_process_can_have_triton_started_again(repository: Repository) -> None:
    with workers(repository, 2) as started:
        before = started[0].address()
        assert started[1].address() == before
        for asking in (started[1], started[0]):
            asking.ask_for_restart()
            after = {worker.address(other_than=before) for worker in started}
            assert len(after) == 1
            before = after.pop()


def test_a_polite_end_leaves_nothing(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)
    with workers(repository, 1) as [owner]:
        load_and_infer(owner.address(), recorded)
        pid = triton_pid(repository)
        family = [pid, *stubs(pid)]
        owner.process.terminate()
        assert owner.process.wait(15) == 0
        assert not any(alive(each) for each in family)
        assert not shared_memory(mark(repository))
        assert not (state_directory(repository.root) / "server.json").exists()


def test_leftovers_do_not_keep_triton_from_starting(repository: Repository) -> None:
    directory = state_directory(repository.root)
    directory.mkdir(parents=True)
    (directory / "server.json").write_text('{"pid": 1, "grpc": "127.0.0.1:1", "metrics": null}')
    (directory / "owner.lock").write_text("")
    (directory / "triton.log").write_text("the run before\n")
    leftover = Path("/dev/shm") / f"{mark(repository)}leftover"
    leftover.write_bytes(b"x")
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", mark(repository)])
    recorded = install(repository, "tiny", seed=1)
    with workers(repository, 1) as [owner]:
        load_and_infer(owner.address(other_than="127.0.0.1:1"), recorded)
        assert holder.wait(5) == -signal.SIGKILL
        assert not leftover.exists()
        assert (directory / "triton.log.1").read_text() == "the run before\n"
        assert "Started GRPCInferenceService" in (directory / "triton.log").read_text()


def test_without_a_cache_the_same_models_serve(repository: Repository) -> None:
    recorded = install(repository, "tiny", seed=1)

    async def run() -> None:
        async with Triton(repository.root, "off") as triton:
            await wait_ready(triton)
            await triton.client.load("tiny", LOAD_SECONDS)
            for _ in range(2):
                got = await triton.client.infer("tiny", recorded.version, ROWS, timeout=5)
                np.testing.assert_allclose(got, expected(1, ROWS), atol=1e-6)

    asyncio.run(run())


def test_a_cache_that_this_triton_lacks_is_named(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with Triton(repository.root, "redis://127.0.0.1:6379"):
            await asyncio.to_thread(wait_until, lambda: "RESPONSE_CACHE" in caplog.text)

    asyncio.run(run())
    assert re.search("RESPONSE_CACHE.*redis", caplog.text)


def test_a_triton_elsewhere_is_used_and_never_touched(repository: Repository) -> None:
    async def run() -> None:
        async with Triton(
            repository.root, "off", grpc_url="127.0.0.1:1", metrics_url="127.0.0.1:2"
        ) as triton:
            assert triton.metrics_address == "127.0.0.1:2"
            with pytest.raises(TritonError):
                await triton.client.index()
            assert not await triton.client.server_ready(0.2)
            await triton.restart()
        assert not state_directory(repository.root).exists()

    asyncio.run(run())
