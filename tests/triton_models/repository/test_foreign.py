"""What lies in the repository and is not of this server."""

import shutil
from pathlib import Path

import pytest

from tests.support.tiny_repository import install
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import CONFIG, ForeignModel, Repository

FOREIGN = {"config": (CONFIG,), "plan": ("1/model.plan",), "both": (CONFIG, "1/model.onnx"), "link": ()}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_others_made_stays_as_it_is(repository: Repository, kind: str, tmp_path: Path) -> None:
    theirs = repository.root / "theirs"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / CONFIG).write_text("platform: 'x'")
        theirs.symlink_to(tmp_path / "elsewhere")
    for name in FOREIGN[kind]:
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text("platform: 'tensorrt_plan'")
    before = sorted(theirs.rglob("*"))
    with pytest.raises(ForeignModel, match="this server did not make theirs"):
        repository.delete("theirs")
    with pytest.raises(ForeignModel):
        install(repository, "theirs", seed=1)
    assert sorted(theirs.rglob("*")) == before
    assert list((repository.state_dir / "trash").iterdir()) == []


def test_what_is_left_of_a_model_of_this_server_can_be_deleted(repository: Repository) -> None:
    recorded = install(repository, "no-config", seed=1)
    (repository.root / "no-config" / CONFIG).unlink()
    install(repository, "no-version", seed=1)
    shutil.rmtree(repository.root / "no-version" / str(recorded.version))
    repository.set_state("no-version", ModelState(error="damaged"))
    (repository.root / "empty").mkdir()
    for triton_name in ("no-config", "no-version"):
        repository.delete(triton_name)
        assert not (repository.root / triton_name).exists()
    install(repository, "empty", seed=1)
