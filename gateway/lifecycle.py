"""Loads, unloads and deletes models.

The truth is elsewhere: what exists is what the repository holds, what is loaded is what Triton
says, and what should be loaded is a mark beside the model. So any number of front ends work side
by side, each change under the model's lock, and a restart brings everything back.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from filelock import AsyncFileLock, Timeout

from gateway.catalog import collision
from gateway.conversion import OnProgress, Progress, convert
from gateway.errors import (
    DeadlineExceeded,
    InvalidModel,
    ModelConflict,
    ModelNotFound,
    Unavailable,
)
from gateway.settings import Settings
from gateway.verification import verify
from triton_models.config import Tuning
from triton_models.errors import ModelLoadFailed, TritonError, TritonTimeout, TritonUnavailable
from triton_models.manifest import Manifest, ManifestError
from triton_models.names import served_name
from triton_models.repository import ModelNotInRepository, Repository
from triton_models.supervisor import Triton

log = logging.getLogger(__name__)

LOCK_POLL = 0.05
"""Seconds between two tries to get a lock that another process holds."""


class Lifecycle:
    """Changes what is loaded; every method may run in several processes at once."""

    def __init__(self, settings: Settings, repository: Repository, triton: Triton) -> None:
        self._settings = settings
        self._repository = repository
        self._triton = triton

    async def load(
        self, model_name: str, revision: str | None, tuning: Tuning, on_progress: OnProgress
    ) -> str:
        """Bring a model into service, converting it first where the repository has none.

        tuning: written into the model's configuration, where it stays; a model that is loaded with another
        is loaded anew beside the old one, which serves until then.
        Returns the sentence for the caller.

        Raises:
            GatewayError: the model cannot be found, converted, loaded or verified, or names collide.
        """
        served = served_name(model_name)
        if await self._serves(served, model_name, revision, tuning):
            return f"Model {model_name} is already loaded."
        async with self._changing(served, "loading"):
            # Another caller or process may have loaded it while this one waited for the lock.
            if await self._serves(served, model_name, revision, tuning):
                return f"Model {model_name} is loaded."
            try:
                manifest = await self._manifest(served, model_name, revision)
                if manifest is None:
                    await self._set(served, activity="converting")
                    await convert(self._settings, model_name, revision, on_progress)
                    manifest = await asyncio.to_thread(self._repository.manifest, served)
                await self._tune(served, tuning)
                await self._serve(served, manifest, on_progress)
            except (InvalidModel, DeadlineExceeded) as error:
                await self._set(served, error=str(error))
                raise
        return f"Model {model_name} is loaded."

    async def restore(self, served: str) -> None:
        """Load again what is marked as wanted and is not in Triton, or not verified, without converting.

        Raises:
            GatewayError: it cannot be loaded or fails its check.
        """
        async with self._changing(served, None):
            state = await asyncio.to_thread(self._repository.state, served)
            if not state.wanted:
                return
            manifest = await asyncio.to_thread(self._repository.manifest, served)
            ready = await self._triton.client.model_ready(served, manifest.version)
            # An activity that stands there while the lock is free is that of a process that died.
            if not ready or state.activity is not None:
                await self._serve(served, manifest, log_progress(manifest.model_name))

    async def unload(self, model_name: str) -> str:
        """Take a model out of Triton; its files stay.

        Raises:
            ModelNotFound: it is not loaded.
        """
        served = served_name(model_name)
        await self._require(served, model_name)
        async with self._changing(served, "unloading"):
            await self._require(served, model_name)
            if not await self._unload(served):
                raise ModelNotFound(f"model {model_name} is not loaded")
        return f"Model {model_name} is unloaded."

    async def delete(self, model_name: str) -> str:
        """Unload a model and remove its files.

        Raises:
            ModelNotFound: the repository has no such model.
        """
        served = served_name(model_name)
        await self._require(served, model_name)
        async with self._changing(served, "deleting"):
            await self._require(served, model_name)
            await self._unload(served)
            await asyncio.to_thread(self._repository.delete, served)
        return f"Model {model_name} is deleted."

    async def _unload(self, served: str) -> bool:
        """Whether there was something to unload."""
        wanted = (await asyncio.to_thread(self._repository.state, served)).wanted
        ready = any(
            model.name == served and model.state == "READY" for model in await self._triton.client.index()
        )
        await self._set(served, wanted=False, error=None)
        if ready:
            await self._triton.client.unload(served, timeout=self._settings.load_timeout)
        return wanted or ready

    async def _serve(self, served: str, manifest: Manifest, on_progress: OnProgress) -> None:
        """Load into Triton, check the vectors through it, mark as wanted."""
        name = manifest.model_name
        on_progress(Progress("load", 0.0, f"loading {name} into Triton"))
        await self._set(served, activity="loading")
        try:
            await self._triton.client.load(served, timeout=self._settings.load_timeout)
        except ModelLoadFailed as error:
            log.error("Triton could not load %s: %s", served, error)
            raise InvalidModel(f"Triton could not load {name}; the server's log has the reason") from error
        except TritonUnavailable as error:
            raise Unavailable(
                f"Triton ended while it loaded {name} and is started again; the server's log has the reason"
            ) from error
        except TritonTimeout as error:
            # Such a load never ends by itself and would block every later one of this model.
            await self._triton.restart()
            raise DeadlineExceeded(
                f"Triton did not load {name} within LOAD_TIMEOUT ({self._settings.load_timeout:g} s)"
            ) from error
        on_progress(Progress("load", 0.5, f"comparing {name} in Triton with the reference"))
        check = await asyncio.to_thread(self._repository.load_check, served)
        try:
            await verify(self._triton.client, served, manifest, check, self._settings.load_timeout)
        except InvalidModel:
            await self._triton.client.unload(served, timeout=self._settings.load_timeout)
            raise
        await self._set(served, wanted=True, error=None)
        on_progress(Progress("ready", 1.0, f"{name} is being served"))

    async def _serves(self, served: str, model_name: str, revision: str | None, tuning: Tuning) -> bool:
        """Whether Triton serves just this model in its present content, tuned like this."""
        manifest = await self._manifest(served, model_name, revision)
        if manifest is None or not (await asyncio.to_thread(self._repository.state, served)).wanted:
            return False
        config = await asyncio.to_thread(self._repository.config, served)
        if tuning.apply(config) != config:
            return False
        return await self._triton.client.model_ready(served, manifest.version)

    async def _tune(self, served: str, tuning: Tuning) -> None:
        def tune() -> None:
            config = self._repository.config(served)
            tuned = tuning.apply(config)
            if tuned != config:
                self._repository.set_config(served, tuned)

        await asyncio.to_thread(tune)

    async def _manifest(self, served: str, model_name: str, revision: str | None) -> Manifest | None:
        """The converted model, or None where there is none or its source has changed.

        Raises:
            ModelConflict: the served name is another model's.
        """

        def read() -> Manifest | None:
            try:
                manifest = self._repository.manifest(served)
            except ModelNotInRepository:
                return None
            except ManifestError as error:
                log.warning("%s is converted again: %s", served, error)
                return None
            if manifest.model_name != model_name:
                raise collision(model_name, manifest.model_name)
            outdated = revision not in (None, manifest.revision) or manifest.source.has_changed()
            return None if outdated else manifest

        return await asyncio.to_thread(read)

    async def _require(self, served: str, model_name: str) -> None:
        try:
            manifest = await asyncio.to_thread(self._repository.manifest, served)
        except ModelNotInRepository as error:
            raise ModelNotFound(f"model {model_name} is not in the repository") from error
        except ManifestError:
            return
        if manifest.model_name != model_name:
            raise ModelNotFound(f"model {model_name} is not in the repository")

    async def _set(self, served: str, **changes: object) -> None:
        def change() -> None:
            state = self._repository.state(served)
            self._repository.set_state(served, replace(state, **changes))  # type: ignore[arg-type]

        await asyncio.to_thread(change)

    @asynccontextmanager
    async def _changing(self, served: str, activity: str | None) -> AsyncIterator[None]:
        """Hold the model's lock; what is done under it shows as the model's activity.

        Raises:
            ModelConflict: the model is being unloaded or deleted by another.
        """
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
            if activity is not None:
                await self._set(served, activity=activity)
            yield
        except TritonError as error:
            log.warning("%s: %s", served, error)
            raise Unavailable("Triton is not ready; retry in a moment") from error
        finally:
            await self._set(served, activity=None)
            await lock.release()


def log_progress(model_name: str) -> OnProgress:
    """Progress as lines of the log, one for each step and each quarter of it."""
    seen: set[tuple[str, int]] = set()

    def report(progress: Progress) -> None:
        quarter = (progress.step, int(progress.progress * 4))
        if quarter not in seen:
            seen.add(quarter)
            log.info(
                "%s: %s %3.0f %% %s", model_name, progress.step, progress.progress * 100, progress.message
            )

    return report
