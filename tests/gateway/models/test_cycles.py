"""Loading and unloading over and over: memory comes back, and nothing is left behind.

CYCLES=334 for a thousand loads; SHOW=1 prints what was seen on the way.
"""

import base64
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests.conftest import Server
from tests.support import tiny_models
from tests.support.pictures import PICTURES
from tests.support.tiny_clip import config, write_clip
from tests.support.vectors import cosines

CYCLES = int(os.environ.get("CYCLES", "150"))
WARM = 20
"""Cycles until all that is kept for good is there."""

SHOWN_EVERY = 10
TEXTS = ["a dog", "a diver in the sea", "42", "", "cats " * 30]
BODIES: dict[str, dict[str, object]] = {
    "/load_sentence_transformer_model tiny/bert": {"model_name": "tiny/bert"},
    "/load_sentence_transformer_model tiny/mpnet": {"model_name": "tiny/mpnet"},
    "/load_clip_model hf-hub:tiny/clip": {"model_name": "hf-hub:tiny/clip"},
}
"""A packed model, a padded one, and both towers of a CLIP model: route and name to the load's body."""


@dataclass(frozen=True)
class Held:
    """What the server holds. memory: MB resident, of the front end and of Triton with all its processes."""

    front_end: float
    triton: float
    processes: int
    descriptors: int
    shared_memory: int
    files: int

    @classmethod
    def by(cls, server: Server) -> "Held":
        assert server.process is not None
        front_end = psutil.Process(server.process.pid)
        children = front_end.children(recursive=True)
        identity = re.compile(r"shm-region-prefix-name=(\S+)")
        arguments = " ".join(" ".join(child.cmdline()) for child in children)
        (mark,) = set(identity.findall(arguments))
        return cls(
            front_end.memory_info().rss / 2**20,
            sum(child.memory_info().rss for child in children) / 2**20,
            len(children),
            front_end.num_fds() + sum(child.num_fds() for child in children),
            len(list(Path("/dev/shm").glob(f"{mark}*"))),
            sum(1 for path in server.repository.rglob("*") if path.is_file()),
        )

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {getattr(self, field.name):.6g}" for field in fields(self))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    sources = tmp_path / "sources"
    tiny_models.transformer_model(sources / "tiny" / "bert")
    tiny_models.transformer_model(sources / "tiny" / "mpnet", "mpnet")
    write_clip(sources / "tiny" / "clip", config())
    # A cache that is full before the first figure is taken: every load's check leaves answers in it, of
    # some hundred bytes each (one of 1 MiB grew for 40 cycles).
    settings = {"MODEL_SOURCES": str(sources), "RESPONSE_CACHE": "local:262144"}
    server = Server(tmp_path / "repository", settings, tmp_path / "server.log")
    with server.running():
        yield server


def embed(client: httpx.Client, body: dict[str, object]) -> NDArray[np.float32]:
    """Vectors of texts, and of a picture where the model takes pictures."""
    more = (
        {"image": [base64.b64encode(PICTURES["png"]()).decode()]}
        if str(body["model_name"]).startswith("hf-hub:")
        else {}
    )
    answer = client.post("/infer", json={**body, "text": TEXTS, **more})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return np.array([*found["text_embeddings"], *(found["image_embeddings"] or [])], dtype=np.float32)


def load(client: httpx.Client, route: str) -> None:
    answer = client.post(route.split()[0], json=BODIES[route])
    assert answer.status_code == 200, answer.text


def unload(client: httpx.Client, route: str) -> None:
    answer = client.post("/unload_model", json=BODIES[route])
    assert answer.status_code == 200, answer.text


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_memory_comes_back(own: Server, record_property: Callable[[str, object], None]) -> None:
    with own.client() as client:
        expected = {}
        for route in BODIES:
            load(client, route)
            expected[route] = embed(client, BODIES[route])
            unload(client, route)
        warm = None
        for cycle in range(1, CYCLES + 1):
            for route in BODIES:
                load(client, route)
                assert cosines(embed(client, BODIES[route]), expected[route]).min() >= 0.99999
                unload(client, route)
            if cycle % SHOWN_EVERY == 0 or cycle == CYCLES:
                held = Held.by(own)
                record_property(f"cycle {cycle}", str(held))
                if "SHOW" in os.environ:
                    sys.stderr.write(f"cycle {cycle}: {held}\n")
            if cycle == WARM:
                warm = held
        assert warm is not None
    assert held.front_end <= 1.1 * warm.front_end
    assert held.triton <= 1.1 * warm.triton
    assert (held.processes, held.shared_memory) == (warm.processes, warm.shared_memory)
    assert held.descriptors <= warm.descriptors
    assert held.files == warm.files
