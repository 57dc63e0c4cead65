"""Redis as the place of records: shared, bounded, and never the reason for a wrong answer or a failure."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from inference_store.backends import CannotRecord
from inference_store.redis_backend import PREFIX, RedisBackend
from tests.conftest import free_port
from tests.inference_store import processes
from tests.inference_store.made_record import record
from tests.inference_store.played_target import Played, played
from tests.inference_store.test_modes import error, infer, request


@contextmanager
def redis_server(directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(directory),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = Redis(port=port)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        client.close()
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    assert shutil.which("redis-server"), (
        "Debian's redis-server is needed: scripts/install requirements-dev.txt"
    )
    number = free_port()
    with redis_server(tmp_path_factory.mktemp("redis"), number):
        yield number


@pytest.fixture
def client(port: int) -> Iterator[Redis]:
    with Redis(port=port) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def target() -> Iterator[Played]:
    with played() as running:
        yield running


def test_stores_share_it(client: Redis, port: int, target: Played, log: Path, tmp_path: Path) -> None:
    options = ("--target", target.url, "--backend", f"redis://127.0.0.1:{port}/0")
    with processes.store(log, *options) as one, processes.store(tmp_path / "two.log", *options) as two:
        infer(one.url, request(1, id="a"))
        assert infer(two.url, request(1, id="b")).id == "b"
        assert target.asked["ModelInfer"] == 1
        # Lost keys are asked for anew.
        client.flushall()
        infer(two.url, request(1))
        assert target.asked["ModelInfer"] == 2
        # What is no record is thrown away and named.
        [name] = [key for key in client.scan_iter() if not key.startswith(f"{PREFIX}:".encode())]
        client.set(name, b"something else")
        infer(one.url, request(1))
        assert target.asked["ModelInfer"] == 3
    assert "does not begin as a record" in log.read_text()


def test_serve_from_redis(client: Redis, port: int, target: Played, log: Path, tmp_path: Path) -> None:
    client.flushall()
    url = f"redis://127.0.0.1:{port}/0"
    with processes.store(log, "collect", "--target", target.url, "--backend", url) as store:
        infer(store.url, request(1))
    with processes.store(tmp_path / "serve.log", "serve", "--backend", url) as store:
        infer(store.url, request(1))
        assert "nearest of 1 records" in error(store.url, request(2))[1]
    with processes.store(
        tmp_path / "down.log", "serve", "--backend", f"redis://127.0.0.1:{free_port()}/0"
    ) as store:
        code, text = error(store.url, request(1))
        assert code == "UNAVAILABLE"
        assert "Redis does not answer" in text


def test_a_redis_that_refuses_hangs_and_comes_back(target: Played, tmp_path: Path, log: Path) -> None:
    number = free_port()
    options = ("--target", target.url, "--backend", f"redis://127.0.0.1:{number}/0")
    with processes.store(log, *options) as store:
        assert infer(store.url, request(1)).model_name == "m"
        with redis_server(tmp_path, number) as process:
            time.sleep(1.1)
            infer(store.url, request(1))
            infer(store.url, request(1))
            assert target.asked["ModelInfer"] == 2
            os.kill(process.pid, signal.SIGSTOP)
            for value in (1, 2, 3):
                assert infer(store.url, request(value)).model_name == "m"
            os.kill(process.pid, signal.SIGCONT)
            asked = target.asked["ModelInfer"]
            time.sleep(1.1)
            infer(store.url, request(1))
            assert target.asked["ModelInfer"] == asked
    assert "Redis does not answer" in log.read_text()


def test_time_to_live_and_limit(client: Redis, port: int) -> None:
    async def run() -> None:
        size = 1100
        backend = RedisBackend(f"redis://127.0.0.1:{port}/0", ttl=60, limit=3 * size)
        made = [record(float(value)) for value in range(5)]
        for each in made:
            await backend.put(each)
        kept = [value for value, each in enumerate(made) if await backend.get(each.key) is not None]
        assert kept == list(range(5 - len(kept), 5))
        assert 2 <= len(kept) <= 3
        assert 50_000 < client.pttl(PREFIX + made[4].key) <= 60_000
        # The same again takes no room twice.
        for _ in range(5):
            await backend.put(made[4])
        assert await backend.get(made[3].key) == made[3]
        with pytest.raises(CannotRecord, match="larger than the limit"):
            await RedisBackend(f"redis://127.0.0.1:{port}/0", ttl=0, limit=100).put(made[0])
        await backend.close()

        short = RedisBackend(f"redis://127.0.0.1:{port}/1", ttl=0.3, limit=3 * size)
        await short.put(made[0])
        await asyncio.sleep(0.4)
        assert await short.get(made[0].key) is None
        # What has expired makes no room a second time.
        for each in made[1:3]:
            await short.put(each)
        assert await short.get(made[1].key) is not None
        await short.close()

    asyncio.run(run())
