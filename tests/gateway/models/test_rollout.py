"""A new version takes an old one's place with no failed request; a broken one leaves the old serving."""

import base64
import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from tests.conftest import Server
from tests.support import tiny_models
from tests.support.pictures import PICTURES
from tests.support.tiny_clip import config, write_clip
from tests.support.vectors import cosines
from tests.support.waiting import wait_until
from triton_models.repository.repository import Repository

CONNECTIONS = 16
TEXTS = ["a dog", "a diver in the sea", "42", "cats " * 20]
NAME, SERVED = "one/text", "one_text"
CLIP, TOWERS = "hf-hub:one/clip", ("hf-hub_one_clip_text_encoder", "hf-hub_one_clip_image_encoder")
TEXT_BODY: dict[str, Any] = {"model_name": NAME, "text": TEXTS}
CLIP_BODY: dict[str, Any] = {
    "model_name": CLIP,
    "text": TEXTS,
    "image": base64.b64encode(PICTURES["png"]()).decode(),
}
Answer = tuple[NDArray[np.float32], ...]


def server_on(root: Path) -> Server:
    """With two worker processes: what one changes, the other must follow."""
    (root / "sources").mkdir()
    uvicorn = ("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2")
    # A budget, so that a test can stop a load between conversion and Triton: at the budget's lock.
    settings = {"MODEL_SOURCES": str(root / "sources"), "MAX_LOADED_MODELS": "5", "LOAD_TIMEOUT": "60"}
    return Server(root / "repository", settings, root / "server.log", uvicorn)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_on(tmp_path_factory.mktemp("upgrade")).running() as server:
        yield server


def ask(client: httpx.Client, body: dict[str, Any]) -> Answer:
    """Vectors of the texts, and of the picture where there is one."""
    answer = client.post("/infer", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return tuple(
        np.array(found[key], np.float32) for key in ("text_embeddings", "image_embeddings") if found[key]
    )


def is_of(answer: Answer, version: Answer) -> bool:
    """Whether all vectors are those of this version: a mixture is of none."""
    return all(
        part.shape == expected.shape and cosines(part, expected).min() >= 0.9999
        for part, expected in zip(answer, version, strict=True)
    )


class Load:
    """Requests over many connections for as long as the context lasts; all answers are kept."""

    def __init__(self, server: Server, body: dict[str, Any], connections: int = CONNECTIONS) -> None:
        self._server = server
        self._body = body
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat) for _ in range(connections)]
        self.answers: list[Answer] = []
        self.failures: list[str] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self) -> None:
        with self._server.client() as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(ask(client, self._body))
                except (AssertionError, httpx.HTTPError) as error:
                    self.failures.append(repr(error))

    def verified(self, *versions: Answer) -> None:
        """Every request was answered by one of these versions, and each of them answered some."""
        assert self.failures == []
        of = [
            next((i for i, one in enumerate(versions) if is_of(answer, one)), None) for answer in self.answers
        ]
        assert set(of) == set(range(len(versions)))


def load(server: Server, body: dict[str, Any], **fields: object) -> httpx.Response:
    route = "/load_clip_model" if body is CLIP_BODY else "/load_sentence_transformer_model"
    with server.client() as client:
        return client.post(route, json={"model_name": body["model_name"], **fields}, timeout=1000)


def replaced(server: Server, body: dict[str, Any]) -> Answer:
    """Load what the source holds now; its vectors."""
    answer = load(server, body)
    assert answer.status_code == 200, answer.text
    with server.client() as client:
        return ask(client, body)


def write_text(server: Server, seed: int, **changes: Any) -> Path:  # noqa: ANN401 - of tiny_models
    path = Path(server.environment["MODEL_SOURCES"]) / NAME
    shutil.rmtree(path, ignore_errors=True)
    return tiny_models.static_model(path, seed=seed, **changes)


def unreadable(server: Server) -> None:
    """Weights of which the second half is missing."""
    weights = next(write_text(server, 99).rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def files(server: Server, *served: str) -> dict[Path, bytes]:
    """What the repository holds of a model, but for what was measured."""
    paths = [path for name in served for path in (server.repository / name).rglob("*")]
    return {path: path.read_bytes() for path in paths if path.is_file() and path.name != "engine.json"}


def cut_model(version: Path) -> None:
    model = version / "model.onnx"
    model.write_bytes(model.read_bytes()[:100])


def spoil_check(version: Path) -> None:
    with np.load(version / "check.npz") as arrays:
        content = dict(arrays)
    content["embeddings"] = content["embeddings"] * -1
    np.savez(version / "check.npz", **content)


@contextmanager
def spoiled_before_loading(server: Server, served: str, spoil: Callable[[Path], None]) -> Iterator[None]:
    """Do something to a new version's files when they are in the repository and Triton has not seen them."""

    def versions() -> set[Path]:
        return {path.parent for path in (server.repository / served).glob("*/model.json")}

    before = versions()
    lock = FileLock(server.repository / ".state" / "capacity.lock", thread_local=False)
    lock.acquire()

    def wait() -> None:
        try:
            wait_until(lambda: versions() - before)
            spoil(*(versions() - before))
        finally:
            lock.release()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_replaced_under_load(own: Server) -> None:
    write_text(own, 1)
    versions = [replaced(own, TEXT_BODY)]
    with Load(own, TEXT_BODY) as traffic:
        write_text(own, 2)
        versions.append(replaced(own, TEXT_BODY))
        write_text(own, 3)
        whole = files(own, SERVED)
        with spoiled_before_loading(own, SERVED, spoil_check):
            refused = load(own, TEXT_BODY)
        assert refused.status_code == 422
        assert "differs from the reference" in refused.json()["detail"]
        assert files(own, SERVED) == whole
        with own.client() as client:
            assert is_of(ask(client, TEXT_BODY), versions[1])
            models = {model["name"]: model for model in client.get("/repository_models").json()["models"]}
        assert models[SERVED]["state"] == "READY"
        assert "differs from the reference" in models[SERVED]["reason"]
    traffic.verified(*versions)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_many_replacements_under_load(own: Server) -> None:
    write_text(own, 11)
    versions = [replaced(own, TEXT_BODY)]
    with Load(own, TEXT_BODY) as traffic:
        for seed in range(12, 15):
            unreadable(own)
            assert load(own, TEXT_BODY).status_code == 422
            write_text(own, 100 + seed)
            with spoiled_before_loading(own, SERVED, cut_model):
                assert load(own, TEXT_BODY).status_code == 422
            path = write_text(own, seed)
            if seed == 13:
                shutil.rmtree(path)
                # Of another architecture and length, so with another configuration.
                tiny_models.transformer_model(path, dense=24, seed=seed)
            versions.append(replaced(own, TEXT_BODY))
            # Another configuration of the same version.
            assert load(own, TEXT_BODY, instances=1 + seed % 2, max_batch_size=seed).status_code == 200
    traffic.verified(*versions)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_pair_is_replaced_under_load(own: Server) -> None:
    path = Path(own.environment["MODEL_SOURCES"]) / "one" / "clip"
    write_clip(path, config())
    versions = [replaced(own, CLIP_BODY)]
    with Load(own, CLIP_BODY) as traffic:
        # Another mean: the same text tower, but no other image tower may stand beside it.
        for changes in ({"preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}, {"spread": 0.2}):
            write_clip(path, config(), **changes)
            versions.append(replaced(own, CLIP_BODY))
        write_clip(path, config(), spread=0.3)
        whole = files(own, *TOWERS)
        with spoiled_before_loading(own, TOWERS[1], spoil_check):
            assert load(own, CLIP_BODY).status_code == 422
        assert files(own, *TOWERS) == whole
    traffic.verified(*versions)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("moment", ["added", "both", "handed over", "alone"])
def test_a_kill_leaves_one_whole_version(tmp_path: Path, moment: str) -> None:
    server = server_on(tmp_path)
    with server.running():
        write_text(server, 21)
        versions = [replaced(server, TEXT_BODY)]
        repository = Repository(server.repository)
        old = repository.manifest(SERVED).version
        write_text(server, 22)

        def replace() -> None:
            with contextlib.suppress(httpx.HTTPError):
                load(server, TEXT_BODY)

        loading = threading.Thread(target=replace)
        loading.start()
        wait_until(lambda: reached(repository, moment, old), pause=0.002)
        kill(server)
        loading.join()
        version = repository.manifest(SERVED).version
        server.start()
        server.wait_healthy()
        with server.client() as client:
            served = ask(client, TEXT_BODY)
        assert is_of(served, versions[0]) == (version == old)
        wait_until(
            lambda: not reached(repository, "added", version) and len(repository.versions(SERVED)) == 1
        )
        versions.append(replaced(server, TEXT_BODY))
        assert [is_of(served, one) for one in versions].count(True) == 1


def kill(server: Server) -> None:
    """The workers and what started them, all at once."""
    assert server.process is not None
    for process in psutil.Process(server.process.pid).children(recursive=True):
        process.kill()
    server.signal(signal.SIGKILL)
    server.process.wait()


def reached(repository: Repository, moment: str, old: int) -> bool:
    """How far a new version is on its way beside the old one."""
    named = repository.versions(SERVED)
    if moment == "added":
        return len(list((repository.root / SERVED).glob("*/model.json"))) == 2
    if moment == "both":
        return named[0] == old and len(named) == 2
    return named[0] != old and (moment == "handed over" or len(named) == 1)
