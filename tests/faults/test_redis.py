"""Tests of the inference store between gateway and Triton, with its Redis killed, frozen and cut off.

The Triton from PyPI has no Redis cache of its own, so RESPONSE_CACHE refuses one at the start. The store has
a Redis backend.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Server, free_port
from tests.faults.conftest import Farm, MakeLoad, Note, wait_loaded
from tests.faults.processes import LoneTriton
from tests.faults.proxy import Proxy
from tests.inference_store import processes
from tests.inference_store.test_redis import redis_server


@dataclass(frozen=True)
class Stored:
    """A gateway, and the proxy in front of the Redis of its store."""

    server: Server
    proxy: Proxy
    directory: Path


@pytest.fixture(scope="module")
def stored(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    root = tmp_path_factory.mktemp("stored")
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(free_port()))
        repository = farm.server(root).repository
        triton = stack.enter_context(
            LoneTriton(repository, free_port(), free_port(), root / "triton.log").running()
        )
        options = ("--target", f"127.0.0.1:{triton.port}", "--backend", f"redis://127.0.0.1:{proxy.port}/0")
        store = stack.enter_context(processes.store(root / "store.log", *options))
        server = Server(
            repository, {**farm.settings, "TRITON_GRPC_ADDRESS": store.url}, root / "server.log", ("app.py",)
        )
        stack.enter_context(server.running())
        wait_loaded(server)
        yield Stored(server, proxy, root)


@pytest.mark.slow
def test_redis_is_never_the_reason_for_a_failure(stored: Stored, load: MakeLoad, note: Note) -> None:
    redis = stored.proxy.target
    with load(stored.server) as under:
        # There is none yet.
        under.settle()
        with redis_server(stored.directory, redis) as process:
            time.sleep(2)
            with under.fault():
                process.send_signal(signal.SIGSTOP)
                time.sleep(3)
                process.send_signal(signal.SIGCONT)
            with under.fault():
                process.kill()
        with redis_server(stored.directory, redis):
            for damage in (stored.proxy.cut, lambda: stored.proxy.cut_in_answer(50), stored.proxy.forget):
                time.sleep(1.5)
                with under.fault():
                    damage()
            with under.fault():
                stored.proxy.stall()
                time.sleep(3)
                stored.proxy.resume()
    note("the store's Redis: absent, frozen, killed, cut, cut in an answer, forgotten, stalled", under)
    under.check(allowed=())
