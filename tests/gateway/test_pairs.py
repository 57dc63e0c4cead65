"""While one pair of towers takes another's place, a reader finds one pair or the other, whole."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.catalog import manifests
from gateway.errors import Unavailable
from gateway.hot import both
from gateway.references import Reference
from gateway.verified import ANSWERED
from tests.triton_models.helpers import build
from triton_models.config import with_versions
from triton_models.repository import Repository

REFERENCE = Reference("one", "tag")


def add(repository: Repository, pair: str, seed: int) -> list[int]:
    """Install both towers, beside what is there; their versions."""
    versions = []
    for served, more in zip(REFERENCE.served, (0, 10), strict=True):
        with repository.staging(served) as staged:
            recorded = build(staged, served, seed + more, model_name="one", pretrained="tag", pair=pair)
            versions.append(recorded.version)
            repository.install(staged, served, beside=(repository.root / served).exists())
    return versions


def test_the_order_changes_tower_by_tower(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    old, new = add(repository, "old", 1), add(repository, "new", 2)
    seen = []
    # What is written to one tower's configuration and then to the other's, and so on.
    for first in ("old", "both", "handed over", "new"):
        for tower, served in enumerate(REFERENCE.served):
            order = {
                "old": [old[tower]],
                "both": [old[tower], new[tower]],
                "handed over": [new[tower], old[tower]],
                "new": [new[tower]],
            }[first]
            repository.set_config(served, with_versions(repository.config(served), order))
            (pair,) = {manifest.pair for manifest in manifests(repository, REFERENCE).values()}
            seen.append(pair)
    assert seen == ["old"] * 4 + ["new"] * 4


def test_settling_leaves_one_version(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    old, new = add(repository, "old", 1), add(repository, "new", 2)
    for tower, served in enumerate(REFERENCE.served):
        config = repository.config(served)
        repository.set_config(served, with_versions(config, [new[tower], old[tower]]))
        (repository.root / served / "7").mkdir()
        repository.settle(served, new[tower])
        assert repository.versions(served) == [new[tower]]
        # What others put there stays.
        left = {path.name for path in (repository.root / served).iterdir()}
        assert left == {"config.pbtxt", str(new[tower]), "7"}


def ask(*pairs: str) -> Any:  # noqa: ANN401 - a coroutine function
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
    assert asyncio.run(both(ask("old"), ask("old"))) == ("old", "old")
    assert asyncio.run(both(ask("old", "new"), ask("new"))) == ("new", "new")
    assert asyncio.run(both(ask("old", "new", "new"), ask("new", "old", "new"))) == ("new", "new")
    with pytest.raises(Unavailable):
        asyncio.run(both(ask("old"), ask("new")))
