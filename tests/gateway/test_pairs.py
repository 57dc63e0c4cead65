"""While one pair of towers takes another's place, a reader finds one pair or the other, whole."""

from pathlib import Path

from gateway.catalog import manifests
from gateway.references import Reference
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
