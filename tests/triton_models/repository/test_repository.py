import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

from tests.support.tiny_repository import build, install
from triton_models.contract.manifest import ManifestError
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import (
    CHECK,
    CONFIG,
    MANIFEST,
    MODEL,
    DamagedModel,
    ModelNotInRepository,
    Repository,
)

PROJECT = Path(__file__).parents[3]

HOLD_FOR_EVER = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("ready", flush=True)
    time.sleep(600)
"""

INSTALL_FOR_EVER = """
import itertools, sys
from pathlib import Path
from tests.support.tiny_repository import install
from triton_models.repository.repository import Repository
repository = Repository(Path(sys.argv[1]))
print("ready", flush=True)
for seed in itertools.cycle((1, 2)):
    install(repository, "tiny", seed)
"""


@contextmanager
def running(program: str, argument: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, past its first line of output; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(argument)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_installed_model_is_found_with_its_manifest(repository: Repository) -> None:
    assert repository.triton_names() == []
    installed = install(repository, "tiny", seed=1)
    assert repository.triton_names() == ["tiny"]
    assert repository.manifest("tiny") == installed
    assert (repository.version_dir("tiny") / MODEL).is_file()


def test_another_content_replaces_the_whole_model(repository: Repository) -> None:
    first, second = install(repository, "tiny", seed=1), install(repository, "tiny", seed=2)
    assert first.version != second.version
    assert repository.manifest("tiny") == second
    assert {path.name for path in (repository.root / "tiny").iterdir()} == {CONFIG, str(second.version)}


def test_the_same_weights_with_other_files_replace_the_files(repository: Repository) -> None:
    first, second = install(repository, "tiny", 1), install(repository, "tiny", 1, prompts={"query": "Q: "})
    assert first.version == second.version
    assert repository.manifest("tiny").prompts == {"query": "Q: "}


def test_installing_leaves_nothing_beside(repository: Repository) -> None:
    install(repository, "tiny", seed=1)
    install(repository, "tiny", seed=2)
    assert list((repository.state_dir / "staging").iterdir()) == []
    assert list((repository.state_dir / "trash").iterdir()) == []


def test_an_incomplete_build_is_refused(repository: Repository) -> None:
    with repository.staging("tiny") as staged:
        recorded = build(staged, "tiny", seed=1)
        (staged / str(recorded.version) / MODEL).unlink()
        with pytest.raises(ModelNotInRepository):
            repository.install(staged, "tiny")
    assert repository.triton_names() == []


def test_staging_is_removed_after_an_error(repository: Repository) -> None:
    def fail() -> None:
        with repository.staging("tiny") as staged:
            (staged / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((repository.state_dir / "staging").iterdir()) == []


def test_delete_removes_the_files_and_what_was_known(repository: Repository) -> None:
    install(repository, "tiny", seed=1)
    repository.set_state("tiny", ModelState(wanted=True))
    repository.delete("tiny")
    assert repository.triton_names() == []
    assert repository.states() == {}
    assert not (repository.root / "tiny").exists()
    with pytest.raises(ModelNotInRepository):
        repository.delete("tiny")


@pytest.mark.parametrize("triton_name", ["nope", "", ".state", "..", "../models", "a/b", "a\0b", "/etc"])
def test_what_is_not_a_model_is_not_found(repository: Repository, triton_name: str) -> None:
    for question in (repository.manifest, repository.version_dir, repository.load_check, repository.delete):
        with pytest.raises(ModelNotInRepository):
            question(triton_name)


def test_incomplete_and_foreign_directories_are_not_models(repository: Repository) -> None:
    (repository.root / "empty").mkdir()
    (repository.root / "file").write_text("x")
    recorded = install(repository, "half", seed=1)
    (repository.root / "half" / str(recorded.version) / MANIFEST).unlink()
    assert repository.triton_names() == []


@pytest.mark.parametrize("name", [CONFIG, MANIFEST])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"null"])
def test_damage_is_told_without_a_path(repository: Repository, name: str, content: bytes) -> None:
    recorded = install(repository, "tiny", seed=1)
    directory = repository.root / "tiny"
    (directory / name if name == CONFIG else directory / str(recorded.version) / name).write_bytes(content)
    with pytest.raises(DamagedModel, match="tiny") as raised:
        repository.manifest("tiny")
    assert isinstance(raised.value, ManifestError)
    assert str(repository.root) not in str(raised.value)


def test_a_manifest_of_another_version_is_damage(repository: Repository) -> None:
    one, other = install(repository, "one", seed=1), install(repository, "other", seed=2)
    stolen = (repository.root / "one" / str(one.version) / MANIFEST).read_text()
    (repository.root / "other" / str(other.version) / MANIFEST).write_text(stolen)
    with pytest.raises(DamagedModel, match="another version"):
        repository.manifest("other")


def test_the_check_comes_back_as_it_was_written(repository: Repository) -> None:
    install(repository, "tiny", seed=1)
    path = repository.version_dir("tiny") / CHECK
    embeddings = np.arange(16, dtype=np.float32).reshape(2, 8)
    ids, lengths = np.arange(5), np.array([2, 3], np.int32)
    np.savez(path, input_ids=ids, lengths=lengths, embeddings=embeddings)
    check = repository.load_check("tiny")
    assert np.array_equal(check.input_ids, ids)
    assert np.array_equal(check.embeddings, embeddings)
    assert check.empty_embedding is None
    np.savez(path, input_ids=ids, lengths=lengths, embeddings=embeddings, empty_embedding=embeddings[0])
    assert np.array_equal(repository.load_check("tiny").empty_embedding, embeddings[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["missing", "cut", "misfit", "pickle"])
def test_a_damaged_check_is_told(repository: Repository, damage: str) -> None:
    install(repository, "tiny", seed=1)
    path = repository.version_dir("tiny") / CHECK
    lengths = np.array([2, 9] if damage == "misfit" else [2, 3], np.int32)
    ids = np.array([{}]) if damage == "pickle" else np.arange(5)
    np.savez(path, input_ids=ids, lengths=lengths, embeddings=np.zeros((2, 8), np.float32))
    if damage == "missing":
        path.unlink()
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedModel, match=CHECK):
        repository.load_check("tiny")


def test_states_come_back(repository: Repository) -> None:
    assert repository.state("tiny") == ModelState()
    written = {"tiny": ModelState(wanted=True, activity="loading"), "other.v1": ModelState(error="no ä")}
    for triton_name, state in written.items():
        repository.set_state(triton_name, state)
    assert repository.states() == written


@pytest.mark.parametrize("content", ["", "{", "[]", '{"unknown": 1}'])
def test_a_damaged_state_is_no_state(repository: Repository, content: str) -> None:
    repository.set_state("tiny", ModelState(wanted=True))
    (repository.state_dir / "models" / "tiny.json").write_text(content)
    assert repository.state("tiny") == ModelState()


def test_readers_never_see_half_a_state(repository: Repository) -> None:
    states = [ModelState(wanted=True, error="x" * 5000), ModelState(wanted=True, error="y" * 9000)]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for state in states:
                repository.set_state("tiny", state)

    repository.set_state("tiny", states[0])
    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(repository.state("tiny") in states for _ in range(300))
        assert set(repository.states()) == {"tiny"}
    finally:
        stop.set()
        writer.join()


def test_the_lock_is_of_one_process(repository: Repository) -> None:
    with running(HOLD_FOR_EVER, repository.lock_path("tiny")) as holder:
        with pytest.raises(Timeout):
            FileLock(repository.lock_path("tiny")).acquire(timeout=0)
        holder.kill()
        with FileLock(repository.lock_path("tiny")).acquire(timeout=5):
            pass


def test_a_reader_finds_a_whole_model_while_another_process_replaces_it(repository: Repository) -> None:
    versions = {install(repository, "tiny", seed).version for seed in (2, 1)}
    with running(INSTALL_FOR_EVER, repository.root):
        seen = set()
        for _ in range(400):
            assert (repository.root / "tiny" / CONFIG).is_file()
            seen.add(repository.manifest("tiny").version)
    assert seen == versions


def test_a_kill_at_any_moment_leaves_a_whole_model(repository: Repository) -> None:
    versions = {install(repository, "tiny", seed).version for seed in (2, 1)}
    moments = random.Random(0)
    for _ in range(5):
        with running(INSTALL_FOR_EVER, repository.root):
            time.sleep(moments.uniform(0, 0.1))
        manifest = repository.manifest("tiny")
        assert manifest.version in versions
        directory = repository.version_dir("tiny")
        assert {path.name for path in directory.parent.iterdir()} == {CONFIG, directory.name}
        assert {path.name for path in directory.iterdir()} == {MODEL, MANIFEST}
        assert json.loads((directory / MANIFEST).read_text())["sha256"] == manifest.sha256
    repository.clean()
    assert list((repository.state_dir / "staging").iterdir()) == []
    assert list((repository.state_dir / "trash").iterdir()) == []


def test_clean_leaves_alone_what_a_living_process_builds(repository: Repository) -> None:
    with repository.staging("tiny") as staged:
        (staged / "half").write_text("x")
        module = "triton_models.repository.repository"
        other = f"from {module} import *; Repository(Path(__import__('sys').argv[1])).clean()"
        subprocess.run([sys.executable, "-c", other, str(repository.root)], cwd=PROJECT, check=True)
        assert (staged / "half").read_text() == "x"


def test_files_of_others_are_kept(repository: Repository) -> None:
    (repository.root / "handmade" / "1").mkdir(parents=True)
    (repository.root / "handmade" / "1" / "model.plan").write_text("x")
    install(repository, "tiny", seed=1)
    repository.clean()
    assert os.listdir(repository.root / "handmade" / "1") == ["model.plan"]
