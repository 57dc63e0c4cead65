"""While one pair of towers takes another's place, a reader finds one pair or the other, whole."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.errors import Unavailable
from gateway.inference.multimodal import both
from gateway.model_id import ModelId
from gateway.models.manifests import manifests
from gateway.models.readiness import ANSWERED
from tests.conftest import Server
from tests.gateway.models.test_rollout import CLIP_BODY, TOWERS, ask, is_of, replaced
from tests.support.hostile_host import HostileHost
from tests.support.tiny_clip import config, write_clip
from tests.support.tiny_repository import build
from tests.support.waiting import wait_until
from triton_models.contract.config import with_versions
from triton_models.repository.repository import Repository

REFERENCE = ModelId("one", "tag")


def add(repository: Repository, pair: str, seed: int) -> list[int]:
    """Install both towers, beside what is there; their versions."""
    versions = []
    for triton_name, more in zip(REFERENCE.triton_names, (0, 10), strict=True):
        with repository.staging(triton_name) as staged:
            recorded = build(staged, triton_name, seed + more, model_name="one", pretrained="tag", pair=pair)
            versions.append(recorded.version)
            repository.install(staged, triton_name, beside=(repository.root / triton_name).exists())
    return versions


def test_the_order_changes_tower_by_tower(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    old, new = add(repository, "old", 1), add(repository, "new", 2)
    seen = []
    # What is written to one tower's configuration and then to the other's, and so on.
    for first in ("old", "both", "handed over", "new"):
        for tower, triton_name in enumerate(REFERENCE.triton_names):
            order = {
                "old": [old[tower]],
                "both": [old[tower], new[tower]],
                "handed over": [new[tower], old[tower]],
                "new": [new[tower]],
            }[first]
            repository.set_config(triton_name, with_versions(repository.config(triton_name), order))
            (pair,) = {manifest.pair for manifest in manifests(repository, REFERENCE).values()}
            seen.append(pair)
    assert seen == ["old"] * 4 + ["new"] * 4


def test_settling_leaves_one_version(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    old, new = add(repository, "old", 1), add(repository, "new", 2)
    for tower, triton_name in enumerate(REFERENCE.triton_names):
        config = repository.config(triton_name)
        repository.set_config(triton_name, with_versions(config, [new[tower], old[tower]]))
        (repository.root / triton_name / "7").mkdir()
        repository.settle(triton_name, new[tower])
        assert repository.versions(triton_name) == [new[tower]]
        # What others put there stays.
        left = {path.name for path in (repository.root / triton_name).iterdir()}
        assert left == {"config.pbtxt", str(new[tower]), "7"}


def tower(*pairs: str) -> Any:  # noqa: ANN401 - a coroutine function
    """A tower that answers with its pair: of the first of these at first, of the last one for ever."""
    left = list(pairs)

    async def answer() -> str:
        pair = left.pop(0) if len(left) > 1 else left[0]
        answered = ANSWERED.get()
        assert answered is not None
        answered.add(pair)
        return pair

    return answer


def test_one_answer_is_of_one_pair() -> None:
    assert asyncio.run(both(tower("old"), tower("old"))) == ("old", "old")
    assert asyncio.run(both(tower("old", "new"), tower("new"))) == ("new", "new")
    assert asyncio.run(both(tower("old", "new", "new"), tower("new", "old", "new"))) == ("new", "new")
    with pytest.raises(Unavailable):
        asyncio.run(both(tower("old"), tower("new")))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_pair_that_is_replaced_between_its_two_answers(tmp_path: Path, host: HostileHost) -> None:
    """The text is answered by the old pair; its image comes when there is only the new one."""
    path = tmp_path / "sources" / "one" / "clip"
    write_clip(path, config())
    settings = {
        "MODEL_SOURCES": str(tmp_path / "sources"),
        "IMAGE_HOSTS_ALLOWED": "127.0.0.2",
        "IMAGE_FETCH_TIMEOUT": "280",
        "REQUEST_TIMEOUT": "280",
    }
    server = Server(tmp_path / "repository", settings, tmp_path / "server.log")
    host.released.clear()
    with server.running(), ThreadPoolExecutor() as threads, server.client() as client:
        versions = [replaced(server, CLIP_BODY)]
        asked = texts_asked(client)
        body = {**CLIP_BODY, "image": f"{host.url}/held-png"}
        asking = threads.submit(ask, client, body)
        try:
            wait_until(lambda: "/held-png" in host.paths and texts_asked(client) > asked)
            write_clip(path, config(), spread=0.2)
            versions.append(replaced(server, CLIP_BODY))
        finally:
            host.released.set()
        answer = asking.result()
    assert not any(is_of(versions[0][place : place + 1], versions[1][place : place + 1]) for place in (0, 1))
    assert is_of(answer, versions[1])


def texts_asked(client: httpx.Client) -> int:
    """Requests to the text tower so far."""
    found = client.get("/metrics").json()["model_stats"]
    return sum(int(one["inference_stats"]["success"]["count"]) for one in found if one["name"] == TOWERS[0])
