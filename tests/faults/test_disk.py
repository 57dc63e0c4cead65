"""Tests of a full repository, TMPDIR and shared memory, and of a converter that the system kills."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, Server
from tests.faults.conftest import BERT, OTHER, Farm, MakeLoad, Note, wait_loaded
from tests.faults.disks import full, tmpfs
from tests.faults.processes import family, triton_of
from tests.support import tiny_models
from tests.support.waiting import wait_until

LOAD = "/load_sentence_transformer_model"
LATE = "tiny/late"


@pytest.fixture(scope="module")
def sources(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return MODEL_SOURCES with a model that is not converted yet."""
    late = tmp_path_factory.mktemp("late")
    tiny_models.static_model(late / LATE, seed=9)
    return os.pathsep.join([str(farm.stock.sources), str(late)])


@pytest.fixture(scope="module")
def small(farm: Farm, sources: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server whose repository is a small file system."""
    root = tmp_path_factory.mktemp("small")
    with tmpfs(root / "mount", 64) as mount:
        server = farm.server(mount, MODEL_SOURCES=sources)
        server.log = root / "server.log"
        with server.running():
            wait_loaded(server)
            yield server


def post(server: Server, path: str, name: str) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={"model_name": name})


def test_a_converter_that_is_killed_fails_its_model_alone(small: Server, load: MakeLoad, note: Note) -> None:
    answers: list[httpx.Response] = []
    with load(small) as under:
        under.settle()
        with under.fault():
            loading = threading.Thread(target=lambda: answers.append(post(small, LOAD, LATE)))
            loading.start()
            # As the kernel's killer does it, in the midst of things.
            wait_until(lambda: family(small, "-m converters"))
            time.sleep(1)
            for process in family(small, "-m converters"):
                process.kill()
            loading.join()
    note("SIGKILL of a converter", under)
    under.check(allowed=())
    assert answers[0].status_code in (422, 507)
    assert LATE in answers[0].json()["detail"]
    assert not (small.repository / "tiny_late").exists()


@pytest.mark.slow
def test_a_full_repository_refuses_conversions_and_serves_on(
    small: Server, load: MakeLoad, note: Note
) -> None:
    with load(small, names=(BERT,)) as under:
        under.settle()
        with under.fault(), full(small.repository):
            answers = {
                path: post(small, path, name)
                for path, name in ((LOAD, LATE), ("/unload_model", OTHER), ("/delete_model", OTHER))
            }
        loaded = [post(small, LOAD, name) for name in (OTHER, LATE)]
    note("MODEL_REPOSITORY is full: conversion, unload, delete", under)
    under.check(allowed=())
    assert answers[LOAD].status_code == 507
    for answer in answers.values():
        # Room may be made, but what cannot be written down may not be told as done.
        assert answer.status_code in (200, 507), answer.text
        assert "/tmp" not in answer.text
    assert [answer.status_code for answer in loaded] == [200, 200], [answer.text for answer in loaded]
    staging = small.repository / ".state" / "staging"
    assert [path.name for path in staging.iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_triton_killed_while_its_disk_is_full_comes_back(small: Server, load: MakeLoad, note: Note) -> None:
    with load(small) as under:
        under.settle()
        with under.fault(), full(small.repository):
            triton_of(small).kill()
            time.sleep(4)
    note("SIGKILL of Triton while MODEL_REPOSITORY is full, room after 4 s", under)
    under.check()


@pytest.mark.slow
def test_no_room_for_temporary_files(
    farm: Farm, sources: str, tmp_path: Path, load: MakeLoad, note: Note
) -> None:
    with tmpfs(tmp_path / "temporary", 1) as temporary:
        server = farm.server(tmp_path, MODEL_SOURCES=sources, TMPDIR=str(temporary))
        with full(temporary), server.running():
            wait_loaded(server)
            with load(server) as under:
                under.settle()
                with under.fault():
                    answer = post(server, LOAD, LATE)
            assert answer.status_code in (200, 507), answer.text
            note("TMPDIR is full: start, conversion", under)
            under.check(allowed=())


@pytest.mark.slow
def test_no_room_in_shared_memory(farm: Farm, tmp_path: Path, load: MakeLoad, note: Note) -> None:
    with tmpfs(tmp_path / "probe", 1):
        pass
    private = f"mount -t tmpfs -o size=64m tmpfs /dev/shm && exec {ROOT}/.venv/bin/python app.py"
    program = f"import os; os.execvp('unshare', ['unshare', '--mount', 'sh', '-c', {private!r}])"
    server = farm.server(tmp_path, "-c", program)
    with server.running():
        wait_loaded(server)
        assert server.process is not None
        with load(server) as under:
            under.settle()
            with under.fault(), full(Path(f"/proc/{server.process.pid}/root/dev/shm")):
                time.sleep(5)
            with under.fault(), full(Path(f"/proc/{server.process.pid}/root/dev/shm")):
                triton_of(server).kill()
                time.sleep(5)
        note("/dev/shm of 64 MB is full, then Triton is killed", under)
        under.check()
