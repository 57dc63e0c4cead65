"""What is killed comes back by itself, and nothing stored is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests import tiny_models
from tests.conftest import ROOT, Server, free_port
from tests.vectors import cosines, embed

LOAD = "/load_sentence_transformer_model"
NAME = "tiny/bert"
TEXTS = ["a dog", "a diver in the sea", "42"]


@pytest.fixture(scope="module")
def converted(model_sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model converted, to start from."""
    repository = tmp_path_factory.mktemp("converted") / "repository"
    command = ["-m", "converters", "sentence-transformer", NAME, "--output", str(repository)]
    subprocess.run(
        [sys.executable, *command, "--sources", str(model_sources)], cwd=ROOT, check=True, capture_output=True
    )
    return repository


def server_on(converted: Path, sources: Path, directory: Path, *arguments: str, **settings: str) -> Server:
    shutil.copytree(converted, directory / "repository")
    environment = {"MODEL_SOURCES": str(sources), "LOAD_MODELS": NAME, **settings}
    return Server(directory / "repository", environment, directory / "server.log", arguments or ("app.py",))


@pytest.fixture
def own(converted: Path, model_sources: Path, tmp_path: Path) -> Iterator[Server]:
    server = server_on(converted, model_sources, tmp_path)
    with server.running():
        yield server


def processes(server: Server, name: str) -> list[psutil.Process]:
    """The server's descendants whose command line holds `name`."""
    assert server.process is not None
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def end_of(found: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run after a while."""
    return psutil.wait_procs(found, timeout=10)[1]


def vectors(server: Server) -> NDArray[np.float32]:
    with server.client() as client:
        return embed(client, TEXTS, NAME)


def test_triton_killed_comes_back_with_its_models(own: Server) -> None:
    expected = vectors(own)
    for _ in range(2):
        for process in processes(own, "tritonserver"):
            process.kill()
        time.sleep(0.2)
        with own.client() as client:
            answer = client.post("/infer_text", json={"model_name": NAME, "text": "in the gap"})
        assert answer.status_code in (200, 503)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) > 0
        own.wait_healthy()
        assert cosines(vectors(own), expected).min() >= 0.99999


def test_the_front_end_killed_leaves_nothing_behind(own: Server) -> None:
    expected = vectors(own)
    children = processes(own, "")
    assert any("tritonserver" in child.name() for child in children)
    own.signal(signal.SIGKILL)
    assert own.process is not None
    own.process.wait()
    assert end_of(children) == []
    own.start()
    own.wait_healthy()
    assert cosines(vectors(own), expected).min() >= 0.99999
    assert "convert " not in own.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(own: Server, number: signal.Signals) -> None:
    children = processes(own, "")
    own.signal(number)
    assert own.process is not None
    own.process.wait(20)
    assert end_of(children) == []


def test_a_second_start_converts_nothing(own: Server) -> None:
    own.stop()
    own.start()
    own.wait_healthy()
    assert "convert " not in own.log.read_text()


def test_a_killed_conversion_is_an_error_and_the_next_succeeds(own: Server, model_sources: Path) -> None:
    tiny_models.transformer_model(model_sources / "killed" / "conversion")
    answers: list[httpx.Response] = []
    with own.client() as client:

        def load() -> None:
            answers.append(client.post(LOAD, json={"model_name": "killed/conversion"}))

        loading = threading.Thread(target=load)
        loading.start()
        while not (converters := processes(own, "-m converters")):
            time.sleep(0.01)
        time.sleep(1)
        for process in converters:
            process.kill()
        loading.join()
        assert answers[0].status_code == 422
        assert "killed/conversion" in answers[0].json()["detail"]
        assert not (own.repository / "killed_conversion").exists()
        load()
        assert answers[1].status_code == 200


def test_four_workers_share_one_triton(converted: Path, model_sources: Path, tmp_path: Path) -> None:
    uvicorn = ("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", "4")
    server = server_on(converted, model_sources, tmp_path, *uvicorn)
    with server.running():
        expected = vectors(server)
        tritons = [
            process for process in processes(server, "tritonserver") if process.name() == "tritonserver"
        ]
        assert len(tritons) == 1
        owner = tritons[0].ppid()
        os.kill(owner, signal.SIGKILL)
        assert end_of(tritons) == []
        time.sleep(1)
        server.wait_healthy()
        for _ in range(8):
            assert cosines(vectors(server), expected).min() >= 0.99999
        children = processes(server, "")
    assert end_of(children) == []


def test_a_triton_that_is_already_there_is_used(converted: Path, model_sources: Path, tmp_path: Path) -> None:
    port = free_port()
    server = server_on(converted, model_sources, tmp_path, TRITON_GRPC_URL=f"127.0.0.1:{port}")
    ports = {"GRPC_PORT": str(port), "METRICS_PORT": str(free_port())}
    environment = {**os.environ, **ports, "MODEL_REPOSITORY": str(server.repository)}
    with (tmp_path / "triton.log").open("wb") as log:
        triton = subprocess.Popen(
            [ROOT / "run_triton_server_dev.sh"], env=environment, stdout=log, stderr=log
        )
    try:
        with server.running():
            assert np.isfinite(vectors(server)).all()
            assert processes(server, "tritonserver") == []
    finally:
        triton.terminate()
        triton.wait(30)


class Load:
    """Requests that go on whatever happens to the server; what they got wrong is kept."""

    def __init__(self, server: Server, expected: NDArray[np.float32]) -> None:
        self._server = server
        self._expected = expected
        self._stop = threading.Event()
        self.wrong: list[float] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,))
            for work in (self._infer, self._infer, self._load)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Callable[[httpx.Client], None]) -> None:
        while not self._stop.is_set():
            try:
                with self._server.client() as client:
                    work(client)
            except httpx.HTTPError:
                time.sleep(0.05)

    def _infer(self, client: httpx.Client) -> None:
        answer = client.post("/infer_text", json={"model_name": NAME, "text": TEXTS})
        if answer.status_code != 200:
            time.sleep(0.05)
            return
        lowest = float(cosines(np.array(answer.json()["embedding"]), self._expected).min())
        if lowest < 0.99999:
            self.wrong.append(lowest)

    def _load(self, client: httpx.Client) -> None:
        client.post(LOAD, json={"model_name": "loading/meanwhile"})
        client.post("/delete_model", json={"model_name": "loading/meanwhile"})


def kill(own: Server, victim: str) -> None:
    if victim == "front end":
        own.signal(signal.SIGKILL)
        assert own.process is not None
        own.process.wait()
        own.start()
    else:
        for process in processes(own, victim):
            process.kill()


def random_kills(own: Server, sources: Path, kills: int) -> list[str]:
    """Kill Triton, the front end or a conversion at random moments of load and infer; report what was."""
    rng = random.Random(os.environ.get("SEED", "1"))
    tiny_models.transformer_model(sources / "loading" / "meanwhile")
    expected = vectors(own)
    report = []
    with Load(own, expected) as load:
        for _ in range(kills):
            time.sleep(rng.uniform(0.1, 6))
            victim = rng.choice(["tritonserver", "-m converters", "front end"])
            kill(own, victim)
            start = time.monotonic()
            own.wait_healthy(60)
            report.append(f"{victim}: healthy after {time.monotonic() - start:.1f} s")
    assert load.wrong == []
    assert cosines(vectors(own), expected).min() >= 0.99999
    with own.client() as client:
        assert client.post(LOAD, json={"model_name": "loading/meanwhile"}).status_code == 200
    shutil.rmtree(sources / "loading")
    return report


def test_three_kills_at_random(own: Server, model_sources: Path) -> None:
    assert len(random_kills(own, model_sources, 3)) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_kills_at_random(
    own: Server, model_sources: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("kills", random_kills(own, model_sources, 20))
