"""Loads, unloads and deletes models.

The truth is elsewhere: what exists is what the repository holds, what is loaded is what Triton
says, and what should be loaded is a mark beside the model. So any number of front ends work side
by side, each change under the model's lock, and a restart brings everything back.

A CLIP model is two models of the repository, its towers. Every change holds the locks of both and is made to
both; where one tower fails, the other goes too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

from filelock import AsyncFileLock, Timeout

from gateway.catalog import manifests
from gateway.conversion import OnProgress, Progress, convert, log_progress
from gateway.errors import DeadlineExceeded, InvalidModel, ModelConflict, ModelNotFound, Unavailable
from gateway.references import Reference
from gateway.settings import Settings
from gateway.verification import verify_part
from triton_models.config import Tuning
from triton_models.errors import ModelLoadFailed, TritonError, TritonTimeout, TritonUnavailable
from triton_models.manifest import Manifest, ManifestError
from triton_models.repository import ModelNotInRepository, Repository, RepositoryError
from triton_models.supervisor import Triton

log = logging.getLogger(__name__)

LOCK_POLL = 0.05
"""Seconds between two tries to get a lock that another process holds."""

Parts = dict[str, Manifest]
"""The manifests of a model's parts by served name: one, or the two towers of a CLIP model."""


class Lifecycle:
    """Changes what is loaded; every method may run in several processes at once."""

    def __init__(self, settings: Settings, repository: Repository, triton: Triton) -> None:
        self._settings = settings
        self._repository = repository
        self._triton = triton

    async def load(
        self, reference: Reference, revision: str | None, tuning: Tuning, on_progress: OnProgress
    ) -> str:
        """Bring a model into service, converting it first where the repository has none.

        tuning: written into the model's configuration, where it stays; a model that is loaded with another
        is loaded anew beside the old one, which serves until then.
        Returns the sentence for the caller.

        Raises:
            GatewayError: the model cannot be found, converted, loaded or verified, or names collide.
        """
        if await self._serves(reference, revision, tuning):
            return f"Model {reference} is already loaded."
        async with self._changing(reference.served, "loading"):
            # Another caller or process may have loaded it while this one waited for the lock.
            if await self._serves(reference, revision, tuning):
                return f"Model {reference} is loaded."
            try:
                parts = await self._parts(reference, revision)
                if parts is None:
                    await self._set(reference.served, activity="converting")
                    await convert(self._settings, reference, revision, on_progress)
                    parts = await asyncio.to_thread(manifests, self._repository, reference)
                await asyncio.to_thread(self._tune, parts, tuning)
                await self._serve(reference, parts, on_progress)
            except (InvalidModel, DeadlineExceeded) as error:
                await self._set(reference.served, error=str(error))
                raise
        return f"Model {reference} is loaded."

    async def restore(self, served: str) -> None:
        """Load again what is marked as wanted and is not in Triton, or not verified, without converting.

        served: the model, or one tower of a CLIP model, which brings the other along.

        Raises:
            GatewayError: it cannot be loaded or fails its check.
            RepositoryError: it is not there, or only one half is.
        """
        reference = Reference.of(await asyncio.to_thread(self._repository.manifest, served))
        async with self._changing(reference.served, None):
            states = [await asyncio.to_thread(self._repository.state, part) for part in reference.served]
            if not any(state.wanted for state in states):
                return
            parts = await asyncio.to_thread(manifests, self._repository, reference)
            # An activity that stands there while the lock is free is that of a process that died.
            settled = all(state.wanted and state.activity is None for state in states)
            if not settled or not await self._are_ready(parts):
                await self._serve(reference, parts, log_progress(str(reference)))

    async def unload(self, reference: Reference) -> str:
        """Take a model out of Triton; its files stay.

        Raises:
            ModelNotFound: it is not loaded.
        """
        await self._present(reference)
        async with self._changing(reference.served, "unloading"):
            await self._present(reference)
            if not await self._unload(reference):
                raise ModelNotFound(f"model {reference} is not loaded")
        return f"Model {reference} is unloaded."

    async def delete(self, reference: Reference) -> str:
        """Unload a model and remove its files.

        Raises:
            ModelNotFound: the repository has no such model.
        """
        await self._present(reference)
        async with self._changing(reference.served, "deleting"):
            # A kill may have left one half of an earlier deletion or conversion.
            present = await self._present(reference)
            await self._unload(reference)
            for served in present:
                await asyncio.to_thread(self._repository.delete, served)
        return f"Model {reference} is deleted."

    async def _unload(self, reference: Reference) -> bool:
        """Whether there was something to unload."""
        states = [await asyncio.to_thread(self._repository.state, served) for served in reference.served]
        index = await self._triton.client.index()
        ready = [entry.name for entry in index if entry.name in reference.served and entry.state == "READY"]
        await self._set(reference.served, wanted=False, error=None)
        for served in ready:
            await self._triton.client.unload(served, timeout=self._settings.load_timeout)
        return bool(ready) or any(state.wanted for state in states)

    async def _serve(self, reference: Reference, parts: Parts, on_progress: OnProgress) -> None:
        """Load into Triton, check the vectors through it, mark as wanted: all parts or none."""
        await self._set(reference.served, activity="loading")
        try:
            on_progress(Progress("load", 0.0, f"loading {reference} into Triton"))
            for served in parts:
                await self._load_into_triton(reference, served)
            on_progress(Progress("load", 0.5, f"comparing {reference} in Triton with the reference"))
            for served, manifest in parts.items():
                await verify_part(
                    self._triton.client, self._repository, served, manifest, self._settings.load_timeout
                )
        except (InvalidModel, TritonError, RepositoryError) as error:
            for served in parts:
                # What failed is what the caller must hear; a Triton that is gone holds nothing anyway.
                with suppress(TritonError):
                    await self._triton.client.unload(served, timeout=self._settings.load_timeout)
            if isinstance(error, RepositoryError):
                raise InvalidModel(str(error)) from error
            raise
        await self._set(reference.served, wanted=True, error=None)
        on_progress(Progress("ready", 1.0, f"{reference} is being served"))

    async def _load_into_triton(self, reference: Reference, served: str) -> None:
        try:
            await self._triton.client.load(served, timeout=self._settings.load_timeout)
        except ModelLoadFailed as error:
            log.error("Triton could not load %s: %s", served, error)
            raise InvalidModel(
                f"Triton could not load {reference}; the server's log has the reason"
            ) from error
        except TritonUnavailable as error:
            raise Unavailable(
                f"Triton ended while it loaded {reference} and is started again; "
                "the server's log has the reason"
            ) from error
        except TritonTimeout as error:
            # Such a load never ends by itself and would block every later one of this model.
            await self._triton.restart()
            raise DeadlineExceeded(
                f"Triton did not load {reference} within LOAD_TIMEOUT ({self._settings.load_timeout:g} s)"
            ) from error

    async def _serves(self, reference: Reference, revision: str | None, tuning: Tuning) -> bool:
        """Whether Triton serves just this model in its present content, tuned like this."""
        parts = await self._parts(reference, revision)
        if parts is None or not await asyncio.to_thread(self._is_wanted, parts, tuning):
            return False
        return await self._are_ready(parts)

    def _is_wanted(self, parts: Parts, tuning: Tuning) -> bool:
        """Whether all parts are marked as wanted and configured like this."""
        for served in parts:
            config = self._repository.config(served)
            if not self._repository.state(served).wanted or tuning.apply(config) != config:
                return False
        return True

    def _tune(self, parts: Parts, tuning: Tuning) -> None:
        for served in parts:
            config = self._repository.config(served)
            tuned = tuning.apply(config)
            if tuned != config:
                self._repository.set_config(served, tuned)

    async def _are_ready(self, parts: Parts) -> bool:
        for served, manifest in parts.items():
            if not await self._triton.client.model_ready(served, manifest.version):
                return False
        return True

    async def _parts(self, reference: Reference, revision: str | None) -> Parts | None:
        """The converted model, or None where there is none, only one half, or its source has changed.

        Raises:
            ModelConflict: a served name is another model's.
        """

        def read() -> Parts | None:
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

    async def _present(self, reference: Reference) -> list[str]:
        """Served names of the parts that the repository holds, be they damaged.

        Raises:
            ModelNotFound: there is none.
        """

        def read() -> list[str]:
            present = []
            for served in reference.served:
                try:
                    holder = Reference.of(self._repository.manifest(served))
                except ModelNotInRepository:
                    continue
                except ManifestError:
                    holder = reference
                if holder == reference:
                    present.append(served)
            return present

        present = await asyncio.to_thread(read)
        if not present:
            raise ModelNotFound(f"model {reference} is not in the repository")
        return present

    async def _set(self, parts: tuple[str, ...], **changes: object) -> None:
        def change() -> None:
            for served in parts:
                state = self._repository.state(served)
                self._repository.set_state(served, replace(state, **changes))  # type: ignore[arg-type]

        await asyncio.to_thread(change)

    @asynccontextmanager
    async def _changing(self, parts: tuple[str, ...], activity: str | None) -> AsyncIterator[None]:
        """Hold the locks of a model's parts; what is done under them shows as the parts' activity.

        Raises:
            ModelConflict: the model is being unloaded or deleted by another.
        """
        async with AsyncExitStack() as locks:
            # In one order, so that two who change the same model cannot wait for each other.
            for served in sorted(parts):
                await locks.enter_async_context(self._locked(served))
            try:
                if activity is not None:
                    await self._set(parts, activity=activity)
                yield
            except TritonError as error:
                log.warning("%s: %s", ", ".join(parts), error)
                raise Unavailable("Triton is not ready; retry in a moment") from error
            finally:
                await self._set(parts, activity=None)

    @asynccontextmanager
    async def _locked(self, served: str) -> AsyncIterator[None]:
        lock = AsyncFileLock(self._repository.lock_path(served), poll_interval=LOCK_POLL)
        try:
            await lock.acquire(timeout=0)
        except Timeout:
            state = await asyncio.to_thread(self._repository.state, served)
            if state.activity in ("unloading", "deleting"):
                raise ModelConflict(
                    f"the model is {state.activity} at the moment; retry when it is done"
                ) from None
            await lock.acquire()
        try:
            yield
        finally:
            await lock.release()
