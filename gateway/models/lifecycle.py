"""Loads, unloads and deletes models.

This module holds no state: the repository knows which models exist, Triton knows which are loaded, and a mark
beside each model says whether it should be loaded. So any number of gateways can work side by side, each
change is made under the model's lock, and a restart restores everything.

A CLIP model is two models of the repository, its towers. Every change holds the locks of both and is made to
both; if one tower fails, the other is unloaded too.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from gateway.errors import (
    DeadlineExceeded,
    InsufficientStorage,
    InvalidModel,
    ModelConflict,
)
from gateway.model_id import ModelId
from gateway.models.capacity import Capacity
from gateway.models.converter import OnProgress, Turns, convert, log_progress
from gateway.models.locks import ModelLocks
from gateway.models.manifests import manifests, manifests_of
from gateway.models.names import Names
from gateway.models.rollout import Parts, Rollout
from gateway.settings import Settings
from gateway.telemetry.tracing import traced
from triton_models.contract.config import Tuning
from triton_models.contract.manifest import ManifestError
from triton_models.repository.repository import (
    ForeignModel,
    ModelNotInRepository,
    Repository,
    RepositoryError,
)

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Lifecycle:
    """Loads, unloads and deletes models; every method may run in several processes at the same time."""

    settings: Settings
    repository: Repository
    locks: ModelLocks
    rollout: Rollout
    capacity: Capacity
    names: Names

    def __post_init__(self) -> None:
        self._turns = Turns(self.settings.max_conversions)

    async def load(
        self, model_id: ModelId, revision: str | None, tuning: Tuning, on_progress: OnProgress
    ) -> str:
        """Load a model, after converting it if the repository does not have it.

        If another version serves, it goes on serving until the new one takes over, and stays if the new one
        fails.

        Args:
            model_id: The model.
            revision: Of the source; None accepts the one that is there, or converts the default one.
            tuning: Written into the model's configuration, where it stays.
            on_progress: Called at each step.

        Returns:
            The message for the caller.

        Raises:
            GatewayError: The model cannot be found, converted, loaded or verified, names collide, or there
                is no room for it.
        """
        model_id = await asyncio.to_thread(self.names.for_load, model_id)
        if await self._serves(model_id, revision, tuning):
            return await self._said(model_id, "is already loaded")
        async with self.locks.hold(model_id.triton_names, None):
            # Another caller or process may have loaded it while this one waited for the lock.
            if await self._serves(model_id, revision, tuning):
                return await self._said(model_id, "is loaded")
            old = await self._in_service(model_id)
            try:
                await self._bring(model_id, revision, tuning, old, on_progress)
            except (InvalidModel, DeadlineExceeded, InsufficientStorage) as error:
                await self.locks.record(model_id.triton_names, error=str(error))
                raise
            finally:
                if old is not None:
                    # Removes a new version that was converted but does not serve.
                    await asyncio.to_thread(self.rollout.drop_other_versions, model_id)
        return await self._said(model_id, "is loaded")

    async def _said(self, model_id: ModelId, what: str) -> str:
        """Return the message for the caller, with the conversion's notice if there is one."""
        with suppress(RepositoryError, ManifestError):
            manifest = await asyncio.to_thread(self.repository.manifest, model_id.text_triton_name)
            if manifest.notice is not None:
                log.warning("%s: %s", model_id, manifest.notice)
                return f"Model {model_id} {what}. Note: {manifest.notice}."
        return f"Model {model_id} {what}."

    async def _bring(
        self,
        model_id: ModelId,
        revision: str | None,
        tuning: Tuning,
        old: Parts | None,
        on_progress: OnProgress,
    ) -> None:
        """Convert if necessary, and load; `old` is the version that serves now, None if none does."""
        new = await self._parts(model_id, revision)
        if new is None:
            await self.capacity.check(model_id)
            await self.locks.record(model_id.triton_names, activity="converting")
            async with self._turns.one(model_id, on_progress):
                versions = await convert(
                    self.settings, model_id, revision, on_progress, beside=old is not None
                )
            new = await asyncio.to_thread(manifests_of, self.repository, model_id, versions)
        if old is None:
            await self.locks.record(model_id.triton_names, activity="loading")
        await self.capacity.admit(model_id)
        if old is None:
            await asyncio.to_thread(self._tune, new, tuning)
            await self.rollout.load(model_id, new, on_progress)
            await self.capacity.note_use(model_id.triton_names)
        else:
            await self.rollout.replace(model_id, old, new, tuning, on_progress)

    @traced("restore model")
    async def restore(self, triton_name: str) -> None:
        """Load a wanted model again, without converting it, if it is not in Triton or not verified.

        Args:
            triton_name: The model, or one tower of a CLIP model, with which the other is loaded too.

        Raises:
            GatewayError: The model cannot be loaded or fails its check.
            RepositoryError: The repository does not have the model, or only one of its towers.
        """
        try:
            model_id = ModelId.of(await asyncio.to_thread(self.repository.manifest, triton_name))
        except ModelNotInRepository:
            if (await asyncio.to_thread(self.repository.state, triton_name)).wanted:
                raise
            # The model has been deleted since the caller saw that it was wanted.
            return
        # An unload in progress leaves a model that is not wanted; there is nothing to restore then.
        async with self.locks.hold(model_id.triton_names, None, wait_for_removal=True):
            states = [await asyncio.to_thread(self.repository.state, part) for part in model_id.triton_names]
            if not any(state.wanted for state in states):
                return
            parts = await asyncio.to_thread(manifests, self.repository, model_id)
            # The lock was free, so an activity that is still recorded is that of a process that died.
            settled = all(state.wanted and state.activity is None for state in states)
            if not settled or not await self.rollout.are_ready(parts):
                try:
                    await self.rollout.load(model_id, parts, log_progress(str(model_id)))
                except (InvalidModel, DeadlineExceeded) as error:
                    await self.locks.record(model_id.triton_names, error=str(error))
                    raise

    @traced("unload model")
    async def unload(self, model_id: ModelId) -> str:
        """Take a model out of Triton; its files stay.

        Raises:
            ModelNotFound: The model is not loaded.
        """
        model_id = await asyncio.to_thread(self.names.find, model_id)
        await self._present(model_id)
        async with self.locks.hold(model_id.triton_names, "unloading"):
            await self._present(model_id)
            if not await self.rollout.unload(model_id.triton_names):
                raise await asyncio.to_thread(self.names.not_loaded, model_id)
        return f"Model {model_id} is unloaded."

    @traced("delete model")
    async def delete(self, model_id: ModelId) -> str:
        """Unload a model and remove its files.

        Raises:
            ModelNotFound: The repository has no such model.
        """
        model_id = await asyncio.to_thread(self.names.find, model_id)
        await self._present(model_id)
        async with self.locks.hold(model_id.triton_names, "deleting"):
            # A killed deletion or conversion may have left one tower only.
            present = await self._present(model_id)
            await self.rollout.unload(model_id.triton_names)
            for triton_name in present:
                await asyncio.to_thread(self.repository.delete, triton_name)
        return f"Model {model_id} is deleted."

    async def _in_service(self, model_id: ModelId) -> Parts | None:
        """Return the verified version that serves now, even if its source has changed; None if none does.

        Raises:
            ModelConflict: Another model has one of the names in Triton.
        """
        states = [
            await asyncio.to_thread(self.repository.state, triton_name)
            for triton_name in model_id.triton_names
        ]
        if not all(state.wanted and state.activity is None for state in states):
            return None
        try:
            parts = await asyncio.to_thread(manifests, self.repository, model_id)
        except (ModelNotInRepository, ManifestError):
            return None
        return parts if await self.rollout.are_ready(parts) else None

    async def _serves(self, model_id: ModelId, revision: str | None, tuning: Tuning) -> bool:
        """Return whether Triton serves the present content of exactly this model, with this tuning."""
        parts = await self._parts(model_id, revision)
        if parts is None or not await asyncio.to_thread(self._is_wanted, parts, tuning):
            return False
        return await self.rollout.are_ready(parts)

    def _is_wanted(self, parts: Parts, tuning: Tuning) -> bool:
        """Return whether all parts are wanted, checked, and configured with this tuning."""
        for triton_name in parts:
            config, state = self.repository.config(triton_name), self.repository.state(triton_name)
            # A model that is being loaded again is in Triton before its check has ended.
            if not state.wanted or state.activity == "loading" or tuning.apply(config) != config:
                return False
        return True

    def _tune(self, parts: Parts, tuning: Tuning) -> None:
        for triton_name in parts:
            config = self.repository.config(triton_name)
            if (tuned := tuning.apply(config)) != config:
                self.repository.set_config(triton_name, tuned)

    async def _parts(self, model_id: ModelId, revision: str | None) -> Parts | None:
        """Return the converted model; None if it is missing or incomplete, or its source has changed.

        Raises:
            ModelConflict: Another model, or one of another maker, has one of the names in Triton.
        """

        def read() -> Parts | None:
            self._refuse_foreign(model_id)
            try:
                parts = manifests(self.repository, model_id)
            except ModelNotInRepository:
                return None
            except ManifestError as error:
                log.warning("%s is converted again: %s", model_id, error)
                return None
            outdated = any(
                revision not in (None, manifest.revision) or manifest.source.has_changed()
                for manifest in parts.values()
            )
            return None if outdated else parts

        return await asyncio.to_thread(read)

    def _refuse_foreign(self, model_id: ModelId) -> None:
        for triton_name in model_id.triton_names:
            if self.repository.is_foreign(triton_name):
                raise ModelConflict(str(ForeignModel(triton_name)))

    async def _present(self, model_id: ModelId) -> list[str]:
        """Return the names in Triton of the parts that the repository holds, even damaged ones.

        Raises:
            ModelNotFound: The repository holds no part.
            ModelConflict: This server did not make a part that is there.
        """

        def read() -> list[str]:
            self._refuse_foreign(model_id)
            present = []
            for triton_name in model_id.triton_names:
                try:
                    holder = ModelId.of(self.repository.manifest(triton_name))
                except ModelNotInRepository:
                    if not self.repository.holds(triton_name):
                        continue
                    holder = model_id
                except ManifestError:
                    holder = model_id
                if holder == model_id:
                    present.append(triton_name)
            return present

        present = await asyncio.to_thread(read)
        if not present:
            raise await asyncio.to_thread(self.names.not_loaded, model_id, "is not in the repository")
        return present
