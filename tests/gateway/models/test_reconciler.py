"""Restoring leaves alone what another task unloads or deletes, and says nothing about it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.models.lifecycle import Lifecycle
from gateway.models.locks import ModelLocks
from gateway.models.names import Names
from gateway.models.reconciler import Reconciler
from gateway.models.rollout import Rollout
from gateway.settings import Settings
from tests.support.tiny_repository import install
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import Repository
from triton_models.server.triton import Triton

NAME = "owner_name"
NOT_USED: Any = None


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With a model that is wanted, as while it is served."""
    made = Repository(tmp_path)
    install(made, NAME, 1, model_name="owner/name")
    made.set_state(NAME, ModelState(wanted=True))
    return made


def reconciler(repository: Repository) -> Reconciler:
    """Restores models of the repository; its Triton is never started."""
    settings = Settings(model_repository=repository.root, load_models=())
    triton, locks = Triton(repository.root, ""), ModelLocks(repository)
    rollout = Rollout(settings, repository, triton, locks)
    lifecycle = Lifecycle(settings, repository, locks, rollout, NOT_USED, Names(repository))
    return Reconciler(repository, triton, lifecycle, NOT_USED, NOT_USED, NOT_USED, NOT_USED, [])


@pytest.mark.parametrize("activity", ["unloading", "deleting"])
def test_a_model_that_is_being_removed_is_no_error(
    repository: Repository, caplog: pytest.LogCaptureFixture, activity: str
) -> None:
    async def run() -> None:
        locks = ModelLocks(repository)
        async with locks.hold((NAME,), activity):
            # The poll has seen the activity before the removal recorded that the model is not wanted.
            restoring = asyncio.create_task(reconciler(repository)._restore(NAME))
            await asyncio.wait({restoring}, timeout=0.5)
            assert not restoring.done()
            if activity == "unloading":
                await locks.record((NAME,), wanted=False)
            else:
                repository.delete(NAME)
        await restoring

    asyncio.run(run())
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert not repository.state(NAME).wanted


def test_a_model_that_was_deleted_is_no_error(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    repository.delete(NAME)
    asyncio.run(reconciler(repository)._restore(NAME))
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_wanted_model_without_files_is_an_error(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    repository.delete(NAME)
    repository.set_state(NAME, ModelState(wanted=True))
    asyncio.run(reconciler(repository)._restore(NAME))
    assert "could not be restored" in caplog.text
