"""Loads, unloads and deletes models.

The truth is elsewhere: what exists is what the repository holds, what is loaded is what Triton
says, and what should be loaded is a mark beside the model. So any number of front ends work side
by side, each change under the model's lock, and a restart brings everything back.

A CLIP model is two models of the repository, its towers. Every change holds the locks of both and is made to
both; where one tower fails, the other goes too.
"""

import asyncio
import logging
from contextlib import suppress

from gateway.errors import (
    DeadlineExceeded,
    InsufficientStorage,
    InvalidModel,
    ModelConflict,
    ModelNotFound,
)
from gateway.model_id import Reference
from gateway.models.capacity import Capacity
from gateway.models.catalog import manifests, manifests_of
from gateway.models.converter import OnProgress, Turns, convert, log_progress
from gateway.models.locks import Changes
from gateway.models.rollout import Parts, Serving
from gateway.settings import Settings
from triton_models.contract.config import Tuning
from triton_models.contract.manifest import ManifestError
from triton_models.repository.repository import (
    ForeignModel,
    ModelNotInRepository,
    Repository,
    RepositoryError,
)

log = logging.getLogger(__name__)


class Lifecycle:
    """Changes what is loaded; every method may run in several processes at once."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        changes: Changes,
        serving: Serving,
        capacity: Capacity,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._changes = changes
        self._serving = serving
        self._capacity = capacity
        self._turns = Turns(settings.max_conversions)

    async def load(
        self, reference: Reference, revision: str | None, tuning: Tuning, on_progress: OnProgress
    ) -> str:
        """Bring a model into service, converting it first where the repository has none.

        Where it serves in another version, that goes on until the new one takes over, and for good where
        the new one fails. tuning: written into the model's configuration, where it stays.
        Returns the sentence for the caller.

        Raises:
            GatewayError: the model cannot be found, converted, loaded or verified, names collide, or there
                is no room for it.
        """
        if await self._serves(reference, revision, tuning):
            return await self._said(reference, "is already loaded")
        async with self._changes.of(reference.served, None):
            # Another caller or process may have loaded it while this one waited for the lock.
            if await self._serves(reference, revision, tuning):
                return await self._said(reference, "is loaded")
            old = await self._in_service(reference)
            try:
                await self._bring(reference, revision, tuning, old, on_progress)
            except (InvalidModel, DeadlineExceeded, InsufficientStorage) as error:
                await self._changes.record(reference.served, error=str(error))
                raise
            finally:
                if old is not None:
                    # What a conversion or a refusal left beside the version that serves.
                    await asyncio.to_thread(self._serving.settle, reference)
        return await self._said(reference, "is loaded")

    async def _said(self, reference: Reference, what: str) -> str:
        """The sentence for the caller, and what the conversion found worth a notice."""
        with suppress(RepositoryError, ManifestError):
            manifest = await asyncio.to_thread(self._repository.manifest, reference.text_served)
            if manifest.notice is not None:
                log.warning("%s: %s", reference, manifest.notice)
                return f"Model {reference} {what}. Note: {manifest.notice}."
        return f"Model {reference} {what}."

    async def _bring(
        self,
        reference: Reference,
        revision: str | None,
        tuning: Tuning,
        old: Parts | None,
        on_progress: OnProgress,
    ) -> None:
        """Convert where need be, and load; old: the version that serves now, None where none does."""
        new = await self._parts(reference, revision)
        if new is None:
            await self._capacity.check(reference)
            await self._changes.record(reference.served, activity="converting")
            async with self._turns.one(reference, on_progress):
                versions = await convert(
                    self._settings, reference, revision, on_progress, beside=old is not None
                )
            new = await asyncio.to_thread(manifests_of, self._repository, reference, versions)
        if old is None:
            await self._changes.record(reference.served, activity="loading")
        await self._capacity.admit(reference, new, tuning)
        if old is None:
            await asyncio.to_thread(self._tune, new, tuning)
            await self._serving.bring_up(reference, new, on_progress)
            await self._capacity.note_use(reference.served)
        else:
            await self._serving.replace(reference, old, new, tuning, on_progress)

    async def restore(self, served: str) -> None:
        """Load again what is marked as wanted and is not in Triton, or not verified, without converting.

        served: the model, or one tower of a CLIP model, which brings the other along.

        Raises:
            GatewayError: it cannot be loaded or fails its check.
            RepositoryError: it is not there, or only one half is.
        """
        reference = Reference.of(await asyncio.to_thread(self._repository.manifest, served))
        async with self._changes.of(reference.served, None):
            states = [await asyncio.to_thread(self._repository.state, part) for part in reference.served]
            if not any(state.wanted for state in states):
                return
            parts = await asyncio.to_thread(manifests, self._repository, reference)
            # An activity that stands there while the lock is free is that of a process that died.
            settled = all(state.wanted and state.activity is None for state in states)
            if not settled or not await self._serving.are_ready(parts):
                try:
                    await self._serving.bring_up(reference, parts, log_progress(str(reference)))
                except (InvalidModel, DeadlineExceeded) as error:
                    await self._changes.record(reference.served, error=str(error))
                    raise

    async def unload(self, reference: Reference) -> str:
        """Take a model out of Triton; its files stay.

        Raises:
            ModelNotFound: it is not loaded.
        """
        await self._present(reference)
        async with self._changes.of(reference.served, "unloading"):
            await self._present(reference)
            if not await self._serving.take_down(reference.served):
                raise ModelNotFound(f"model {reference} is not loaded")
        return f"Model {reference} is unloaded."

    async def delete(self, reference: Reference) -> str:
        """Unload a model and remove its files.

        Raises:
            ModelNotFound: the repository has no such model.
        """
        await self._present(reference)
        async with self._changes.of(reference.served, "deleting"):
            # A kill may have left one half of an earlier deletion or conversion.
            present = await self._present(reference)
            await self._serving.take_down(reference.served)
            for served in present:
                await asyncio.to_thread(self._repository.delete, served)
        return f"Model {reference} is deleted."

    async def _in_service(self, reference: Reference) -> Parts | None:
        """The version that is verified and serves now, whatever became of its source; None where none does.

        Raises:
            ModelConflict: a served name is another model's.
        """
        states = [await asyncio.to_thread(self._repository.state, served) for served in reference.served]
        if not all(state.wanted and state.activity is None for state in states):
            return None
        try:
            parts = await asyncio.to_thread(manifests, self._repository, reference)
        except (ModelNotInRepository, ManifestError):
            return None
        return parts if await self._serving.are_ready(parts) else None

    async def _serves(self, reference: Reference, revision: str | None, tuning: Tuning) -> bool:
        """Whether Triton serves just this model in its present content, tuned like this."""
        parts = await self._parts(reference, revision)
        if parts is None or not await asyncio.to_thread(self._is_wanted, parts, tuning):
            return False
        return await self._serving.are_ready(parts)

    def _is_wanted(self, parts: Parts, tuning: Tuning) -> bool:
        """Whether all parts are marked as wanted, checked, and configured like this."""
        for served in parts:
            config, state = self._repository.config(served), self._repository.state(served)
            # What is being loaded again is in Triton before its check has ended.
            if not state.wanted or state.activity == "loading" or tuning.apply(config) != config:
                return False
        return True

    def _tune(self, parts: Parts, tuning: Tuning) -> None:
        for served in parts:
            config = self._repository.config(served)
            if (tuned := tuning.apply(config)) != config:
                self._repository.set_config(served, tuned)

    async def _parts(self, reference: Reference, revision: str | None) -> Parts | None:
        """The converted model, or None where there is none, only one half, or its source has changed.

        Raises:
            ModelConflict: a served name is another model's, or of something that this server did not make.
        """

        def read() -> Parts | None:
            self._refuse_foreign(reference)
            try:
                parts = manifests(self._repository, reference)
            except ModelNotInRepository:
                return None
            except ManifestError as error:
                log.warning("%s is converted again: %s", reference, error)
                return None
            outdated = any(
                revision not in (None, manifest.revision) or manifest.source.has_changed()
                for manifest in parts.values()
            )
            return None if outdated else parts

        return await asyncio.to_thread(read)

    def _refuse_foreign(self, reference: Reference) -> None:
        for served in reference.served:
            if self._repository.is_foreign(served):
                raise ModelConflict(str(ForeignModel(served)))

    async def _present(self, reference: Reference) -> list[str]:
        """Served names of the parts that the repository holds, be they damaged.

        Raises:
            ModelNotFound: there is none. ModelConflict: this server did not make what is there.
        """

        def read() -> list[str]:
            self._refuse_foreign(reference)
            present = []
            for served in reference.served:
                try:
                    holder = Reference.of(self._repository.manifest(served))
                except ModelNotInRepository:
                    if not self._repository.holds(served):
                        continue
                    holder = reference
                except ManifestError:
                    holder = reference
                if holder == reference:
                    present.append(served)
            return present

        present = await asyncio.to_thread(read)
        if not present:
            raise ModelNotFound(f"model {reference} is not in the repository")
        return present
