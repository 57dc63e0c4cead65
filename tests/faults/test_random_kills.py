"""Triton, the gateway and converters are killed at random moments of loads and inferences."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server
from tests.faults.conftest import Farm, wait_loaded
from tests.faults.load import Kind, Load
from tests.faults.processes import family
from tests.support import tiny_models

LOAD = "/load_sentence_transformer_model"
MEANWHILE = "loading/meanwhile"
KILLS = 20


@contextmanager
def loading_and_deleting(server: Server) -> Iterator[None]:
    """Convert, load and delete a model repeatedly while the block runs."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                with server.client() as client:
                    client.post(LOAD, json={"model_name": MEANWHILE})
                    client.post("/delete_model", json={"model_name": MEANWHILE})
            except httpx.HTTPError:
                time.sleep(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def kill(server: Server, victim: str) -> None:
    if victim == "front end":
        server.signal(signal.SIGKILL)
        assert server.process is not None
        server.process.wait()
        server.start()
    else:
        for process in family(server, victim):
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kills_at_random(
    farm: Farm, tmp_path: Path, load: Callable[..., Load], note: Callable[[str, Load], None]
) -> None:
    rng = random.Random(os.environ.get("SEED", "1"))
    tiny_models.transformer_model(tmp_path / "late" / MEANWHILE)
    sources = os.pathsep.join([str(farm.stock.sources), str(tmp_path / "late")])
    server = farm.server(tmp_path, MODEL_SOURCES=sources)
    with server.running():
        wait_loaded(server)
        with loading_and_deleting(server), load(server) as under:
            for _ in range(KILLS):
                time.sleep(rng.uniform(0.1, 6))
                with under.fault(steady=0.2):
                    kill(server, rng.choice(["tritonserver", "-m converters", "front end"]))
                    server.wait_healthy(60)
        note(f"{KILLS} kills of Triton, a converter or the front end", under)
        under.check(allowed=(Kind.HONEST, Kind.CUT))
        with server.client() as client:
            assert client.post(LOAD, json={"model_name": MEANWHILE}).status_code == 200
    shutil.rmtree(server.repository)
