"""Brings models into Triton and checks them there; one version takes another's place without a gap.

    a load             load, check
    another version    load it beside the old one, check it, let requests have it, load it alone
    another tuning     load again; Triton keeps the old instances until the new ones are there

The parts of a model (one, or the towers of a CLIP model) go every step together. Who calls holds their locks.
"""

import asyncio
import logging
import math
from contextlib import suppress

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.errors import DeadlineExceeded, InvalidModel, Unavailable
from gateway.health.model_health import LOOK, Watched
from gateway.model_id import Reference
from gateway.models.catalog import manifests
from gateway.models.converter import OnProgress, Progress
from gateway.models.load_check import verify_part
from gateway.models.locks import Changes
from gateway.settings import Settings
from gateway.telemetry.metrics import LOADS, timed
from gateway.text.tokenizer import TextTokenizer
from triton_models.client.errors import ModelLoadFailed, TritonError, TritonTimeout, TritonUnavailable
from triton_models.client.index import ready_names
from triton_models.contract.config import Tuning, model_config, with_versions
from triton_models.contract.manifest import Manifest
from triton_models.repository.model_state import Activity
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.supervisor import Triton

log = logging.getLogger(__name__)

Parts = dict[str, Manifest]
"""The manifests of a model's parts by served name: one, or the two towers of a CLIP model."""


Configs = dict[str, ModelConfig]
"""Triton's configurations of a model's parts by served name."""


class Serving:
    """What is in Triton, and how it gets there."""

    def __init__(self, settings: Settings, repository: Repository, triton: Triton, changes: Changes) -> None:
        self._timeout = settings.load_timeout
        self._repository = repository
        self._triton = triton
        self._changes = changes

    async def are_ready(self, parts: Parts) -> bool:
        """Whether Triton has all parts in these versions.

        Raises:
            TritonError: it could not be asked.
        """
        for served, manifest in parts.items():
            if not await self._triton.client.model_ready(served, manifest.version):
                return False
        return True

    @timed(LOADS)
    async def bring_up(
        self,
        reference: Reference,
        parts: Parts,
        on_progress: OnProgress,
        activity: Activity = "loading",
    ) -> None:
        """Load into Triton, check the vectors through it, mark as wanted: all parts or none.

        Where Triton ends meanwhile, once more in the next one.
        activity: `loading` keeps requests off until the check has passed.

        Raises:
            InvalidModel, DeadlineExceeded, Unavailable, TritonError: the model is out of Triton again.
        """
        await self._changes.record(reference.served, activity=activity)
        generation = self._triton.generation
        try:
            await asyncio.to_thread(self._settle, parts)
            try:
                await self._load_and_verify(reference, [parts], on_progress)
            except (Unavailable, TritonUnavailable) as error:
                # Triton 2.51 ends where a model's process stands still for a second while it is loaded.
                if not await self._triton.has_ended(generation):
                    raise
                log.warning("%s is loaded once more: %s", reference, error)
                await self._load_and_verify(reference, [parts], on_progress)
        except (InvalidModel, TritonError, RepositoryError) as error:
            for served in parts:
                # What failed is what the caller must hear. Without the model's process unloading never ends.
                with suppress(TritonError):
                    await self._triton.client.release(served, timeout=self._timeout)
            if isinstance(error, RepositoryError):
                raise InvalidModel(str(error)) from error
            raise
        await self._changes.record(reference.served, wanted=True, error=None)
        on_progress(Progress("ready", 1.0, f"{reference} is being served"))

    @timed(LOADS)
    async def replace(
        self, reference: Reference, old: Parts, new: Parts, tuning: Tuning, on_progress: OnProgress
    ) -> None:
        """Put `new`, whose files are there, in the place of `old`, which serves; either may be the same.

        tuning: of the new one; what it leaves open is as it was.

        Raises:
            InvalidModel, DeadlineExceeded, Unavailable, TritonError: the old one serves as before.
        """
        await self._changes.record(reference.served, activity="replacing")
        generation = self._triton.generation
        before = await asyncio.to_thread(self._configs, old)
        configs = self._new_configs(before, old, new, tuning)
        if _versions(old) == _versions(new) and configs == before:
            # Only the record of where it came from is another.
            await self._changes.record(reference.served, error=None)
            return
        try:
            await self._take_over(reference, old, new, configs, on_progress)
        except BaseException as error:
            await asyncio.to_thread(self._go_back, before, old)
            if isinstance(error, Exception):
                log.warning("%s: the version that was served is kept: %s", reference, error)
                # In a Triton of this moment nothing was checked.
                activity: Activity = "replacing" if self._triton.generation == generation else "loading"
                with suppress(InvalidModel, DeadlineExceeded, Unavailable, TritonError):
                    await self.bring_up(reference, old, lambda _: None, activity)
            if isinstance(error, RepositoryError):
                raise InvalidModel(str(error)) from error
            raise
        await self._changes.record(reference.served, wanted=True, error=None)
        on_progress(Progress("ready", 1.0, f"{reference} is being served"))

    async def take_down(self, parts: tuple[str, ...]) -> bool:
        """Take the parts of a model out of Triton, for good; whether there was something to do.

        Raises:
            TritonError: Triton could not let it go.
        """
        states = [await asyncio.to_thread(self._repository.state, served) for served in parts]
        ready = ready_names(await self._triton.client.index()) & set(parts)
        await self._changes.record(parts, wanted=False, error=None)
        for served in sorted(ready):
            await self._triton.client.unload(served, timeout=self._timeout)
        return bool(ready) or any(state.wanted for state in states)

    async def _take_over(
        self, reference: Reference, old: Parts, new: Parts, configs: Configs, on_progress: OnProgress
    ) -> None:
        if _versions(old) != _versions(new):
            both = {served: [old[served].version, new[served].version] for served in new}
            await asyncio.to_thread(self._configure, configs, both)
            await self._load_and_verify(reference, [old, new], on_progress)
            # From here on requests are for the new one; who still knows the old one finds it for a while.
            there = {served: versions[::-1] for served, versions in both.items()}
            await asyncio.to_thread(self._configure, configs, there)
        alone = {served: [manifest.version] for served, manifest in new.items()}
        await asyncio.to_thread(self._configure, configs, alone)
        await self._load_and_verify(reference, [new], on_progress)
        await asyncio.to_thread(self._settle, new)

    async def _load_and_verify(
        self, reference: Reference, versions: list[Parts], on_progress: OnProgress
    ) -> None:
        generation = self._triton.generation
        for parts in versions:
            await asyncio.to_thread(self._require_readable, parts)
        on_progress(Progress("load", 0.0, f"loading {reference} into Triton"))
        for served in reference.served:
            await self._load(reference, served)
        on_progress(Progress("load", 0.5, f"comparing {reference} in Triton with the reference"))
        for parts in versions:
            for served, manifest in parts.items():
                await self._verify(served, manifest)
        if self._triton.generation != generation:
            raise TritonUnavailable("Triton was started again meanwhile")

    async def _verify(self, served: str, manifest: Manifest) -> None:
        """The check, for as long as it goes on.

        The watch of `health.py` leaves a model alone that is being loaded.

        Raises:
            TritonUnavailable: the process has ended, or owed an answer and did nothing; it is ended then.
            InvalidModel, TritonError, RepositoryError: as `verify_part`.
        """
        stubs, loop = self._triton.stubs, asyncio.get_running_loop()
        known = Watched(manifest.version, 0)

        def note_answer() -> None:
            known.asked, known.idle = loop.time(), 0

        work = verify_part(
            self._triton.client, self._repository, served, manifest, self._timeout, note_answer
        )
        if stubs is None:
            await work
            return
        stubs.find()
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=LOOK))[0]:
                known.see(stubs.of(served), loop.time())
                if known.is_dead or known.is_hung(loop.time(), math.inf):
                    log.error("the process of %s in Triton does not answer its check and is ended", served)
                    stubs.kill(served)
                    raise TritonUnavailable("the model's process did not answer its check")
            await task
        finally:
            task.cancel()

    def _require_readable(self, parts: Parts) -> None:
        """Read what the front end needs of a model; Triton would not miss it.

        Raises:
            RepositoryError: something is damaged or missing.
        """
        for served, manifest in parts.items():
            if manifest.tower == "image":
                self._repository.load_image_check(served, manifest.version)
            else:
                self._repository.load_check(served, manifest.version)
                TextTokenizer(self._repository.version_dir(served, manifest.version), manifest)

    async def _load(self, reference: Reference, served: str) -> None:
        try:
            await self._triton.client.load(served, timeout=self._timeout)
        except ModelLoadFailed as error:
            log.error("Triton could not load %s: %s", served, error.reason)
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
                f"Triton did not load {reference} within LOAD_TIMEOUT ({self._timeout:g} s)"
            ) from error

    def _configs(self, parts: Parts) -> Configs:
        return {served: self._repository.config(served) for served in parts}

    def _new_configs(self, before: Configs, old: Parts, new: Parts, tuning: Tuning) -> Configs:
        """As the new version needs it, tuned as it was and as it is asked for."""
        if _versions(old) == _versions(new):
            return {served: tuning.apply(config) for served, config in before.items()}
        return {
            served: tuning.apply(Tuning.of(config).apply(model_config(served, new[served])))
            for served, config in before.items()
        }

    def _configure(self, configs: Configs, versions: dict[str, list[int]]) -> None:
        for served, config in configs.items():
            self._repository.set_config(served, with_versions(config, versions[served]))

    def settle(self, reference: Reference) -> None:
        """Leave of a model's files and configuration those of the version that requests are for.

        Raises:
            RepositoryError, ManifestError: they cannot be read.
        """
        self._settle(manifests(self._repository, reference))

    def _settle(self, parts: Parts) -> None:
        for served, manifest in parts.items():
            self._repository.settle(served, manifest.version)

    def _go_back(self, configs: Configs, old: Parts) -> None:
        for served, config in configs.items():
            self._repository.set_config(served, config)
        self._settle(old)


def _versions(parts: Parts) -> list[int]:
    return [manifest.version for manifest in parts.values()]
