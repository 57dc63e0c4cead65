"""Loads models into Triton and checks them there; replaces one version with another without a gap.

    a load             load, check
    another version    load it beside the old one, check it, send requests to it, load it alone
    another tuning     load again; Triton keeps the old instances until the new ones are ready

The parts of a model (one, or the towers of a CLIP model) take every step together. The caller holds their
locks.
"""

import asyncio
import logging
import math
from contextlib import suppress

from tritonclient.grpc.model_config_pb2 import ModelConfig

from gateway.errors import DeadlineExceeded, InvalidModel, Unavailable
from gateway.health.model_health import POLL_SECONDS, ModelHealth
from gateway.model_id import ModelId
from gateway.models.converter import OnProgress, Progress
from gateway.models.load_check import verify_part
from gateway.models.locks import ModelLocks
from gateway.models.manifests import manifests
from gateway.settings import Settings
from gateway.telemetry.metrics import LOADS, timed
from gateway.text.pairs import PairTokenizer
from gateway.text.tokenizer import TextTokenizer
from triton_models.client.errors import ModelLoadFailed, TritonError, TritonTimeout, TritonUnavailable
from triton_models.client.index import ready_names
from triton_models.contract.config import Tuning, model_config, with_versions
from triton_models.contract.manifest import Manifest
from triton_models.repository.model_state import Activity
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.triton import Triton

log = logging.getLogger(__name__)

Parts = dict[str, Manifest]
"""The manifests of a model's parts, by name in Triton: one part, or the two towers of a CLIP model."""


Configs = dict[str, ModelConfig]
"""Triton's configurations of a model's parts, by name in Triton."""


class Rollout:
    """Loads, replaces and unloads models in Triton."""

    def __init__(self, settings: Settings, repository: Repository, triton: Triton, locks: ModelLocks) -> None:
        self._timeout = settings.load_timeout
        self._repository = repository
        self._triton = triton
        self._locks = locks

    async def are_ready(self, parts: Parts) -> bool:
        """Return whether all parts, in these versions, are ready in Triton.

        Raises:
            TritonError: Triton does not answer.
        """
        for triton_name, manifest in parts.items():
            if not await self._triton.client.model_ready(triton_name, manifest.version):
                return False
        return True

    @timed(LOADS)
    async def load(
        self,
        model_id: ModelId,
        parts: Parts,
        on_progress: OnProgress,
        activity: Activity = "loading",
    ) -> None:
        """Load all parts into Triton, check their vectors, and mark them as wanted; or unload all again.

        If Triton ends meanwhile, the load is tried once more in the next one. The activity `loading` keeps
        requests off until the check has passed.

        Raises:
            InvalidModel, DeadlineExceeded, Unavailable, TritonError: The model is not in Triton any more.
        """
        await self._locks.record(model_id.triton_names, activity=activity)
        generation = self._triton.generation
        try:
            await asyncio.to_thread(self._drop_other_versions, parts)
            try:
                await self._load_and_verify(model_id, [parts], on_progress)
            except (Unavailable, TritonUnavailable) as error:
                # Triton 2.51 ends if a model's process stands still for a second while it is loaded.
                if not await self._triton.has_ended(generation):
                    raise
                log.warning("%s is loaded once more: %s", model_id, error)
                await self._load_and_verify(model_id, [parts], on_progress)
        except (InvalidModel, TritonError, RepositoryError) as error:
            for triton_name in parts:
                # The caller must get the first error. Unloading never ends if the model's process is lost.
                with suppress(TritonError):
                    await self._triton.client.release(triton_name, timeout=self._timeout)
            if isinstance(error, RepositoryError):
                raise InvalidModel(str(error)) from error
            raise
        await self._locks.record(model_id.triton_names, wanted=True, error=None)
        on_progress(Progress("ready", 1.0, f"{model_id} is being served"))

    @timed(LOADS)
    async def replace(
        self, model_id: ModelId, old: Parts, new: Parts, tuning: Tuning, on_progress: OnProgress
    ) -> None:
        """Replace the version that serves with a converted one; both may be the same, with another tuning.

        Args:
            model_id: The model.
            old: The version that serves.
            new: The version that replaces it; its files are in the repository.
            tuning: The new version's; what it leaves open stays as it was.
            on_progress: Called at each step.

        Raises:
            InvalidModel, DeadlineExceeded, Unavailable, TritonError: The old version serves as before.
        """
        await self._locks.record(model_id.triton_names, activity="replacing")
        generation = self._triton.generation
        before = await asyncio.to_thread(self._configs, old)
        configs = self._new_configs(before, old, new, tuning)
        if _versions(old) == _versions(new) and configs == before:
            # Only the record of the model's source has changed.
            await self._locks.record(model_id.triton_names, error=None)
            return
        try:
            await self._take_over(model_id, old, new, configs, on_progress)
        except BaseException as error:
            await asyncio.to_thread(self._go_back, before, old)
            if isinstance(error, Exception):
                log.warning("%s: the version that was served is kept: %s", model_id, error)
                # A Triton that was started meanwhile has checked nothing: keep requests off until it has.
                activity: Activity = "replacing" if self._triton.generation == generation else "loading"
                with suppress(InvalidModel, DeadlineExceeded, Unavailable, TritonError):
                    await self.load(model_id, old, lambda _: None, activity)
            if isinstance(error, RepositoryError):
                raise InvalidModel(str(error)) from error
            raise
        await self._locks.record(model_id.triton_names, wanted=True, error=None)
        on_progress(Progress("ready", 1.0, f"{model_id} is being served"))

    async def unload(self, parts: tuple[str, ...]) -> bool:
        """Unload a model's parts and mark them as not wanted; return whether any was loaded or wanted.

        Raises:
            TritonError: Triton could not unload a part.
        """
        states = [await asyncio.to_thread(self._repository.state, triton_name) for triton_name in parts]
        ready = ready_names(await self._triton.client.index()) & set(parts)
        await self._locks.record(parts, wanted=False, error=None)
        for triton_name in sorted(ready):
            await self._triton.client.unload(triton_name, timeout=self._timeout)
        return bool(ready) or any(state.wanted for state in states)

    async def _take_over(
        self, model_id: ModelId, old: Parts, new: Parts, configs: Configs, on_progress: OnProgress
    ) -> None:
        if _versions(old) != _versions(new):
            both = {triton_name: [old[triton_name].version, new[triton_name].version] for triton_name in new}
            await asyncio.to_thread(self._configure, configs, both)
            await self._load_and_verify(model_id, [old, new], on_progress)
            # From here on, gateways that read the repository use the new version. A gateway that still has
            # the old one cached can go on using it for a while.
            there = {triton_name: versions[::-1] for triton_name, versions in both.items()}
            await asyncio.to_thread(self._configure, configs, there)
        alone = {triton_name: [manifest.version] for triton_name, manifest in new.items()}
        await asyncio.to_thread(self._configure, configs, alone)
        await self._load_and_verify(model_id, [new], on_progress)
        await asyncio.to_thread(self._drop_other_versions, new)

    async def _load_and_verify(
        self, model_id: ModelId, versions: list[Parts], on_progress: OnProgress
    ) -> None:
        generation = self._triton.generation
        for parts in versions:
            await asyncio.to_thread(self._require_readable, parts)
        on_progress(Progress("load", 0.0, f"loading {model_id} into Triton"))
        for triton_name in model_id.triton_names:
            await self._load(model_id, triton_name)
        on_progress(Progress("load", 0.5, f"comparing {model_id} in Triton with the reference"))
        for parts in versions:
            for triton_name, manifest in parts.items():
                await self._verify(triton_name, manifest)
        if self._triton.generation != generation:
            raise TritonUnavailable("Triton was started again meanwhile")

    async def _verify(self, triton_name: str, manifest: Manifest) -> None:
        """Check a part and watch its process; `monitor.py` does not watch a model that is being loaded.

        Raises:
            TritonUnavailable: The process has ended, or was killed because it owed an answer and did nothing.
            InvalidModel, TritonError, RepositoryError: As `verify_part`.
        """
        stubs, loop = self._triton.stubs, asyncio.get_running_loop()
        known = ModelHealth(manifest.version, 0)

        def note_answer() -> None:
            known.probed_at, known.idle_polls = loop.time(), 0

        work = verify_part(
            self._triton.client, self._repository, triton_name, manifest, self._timeout, note_answer
        )
        if stubs is None:
            await work
            return
        stubs.find()
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL_SECONDS))[0]:
                known.observe_processes(stubs.of(triton_name), loop.time())
                if known.is_dead or known.is_hung(loop.time(), math.inf):
                    log.error(
                        "the process of %s in Triton does not answer its check and is ended", triton_name
                    )
                    stubs.kill(triton_name)
                    raise TritonUnavailable("the model's process did not answer its check")
            await task
        finally:
            task.cancel()

    def _require_readable(self, parts: Parts) -> None:
        """Read the files that the gateway needs of a model; Triton loads a model without them.

        Raises:
            RepositoryError: A file is damaged or missing.
        """
        for triton_name, manifest in parts.items():
            if manifest.tower == "image":
                self._repository.load_image_check(triton_name, manifest.version)
            else:
                self._repository.load_check(triton_name, manifest.version)
                read = PairTokenizer if manifest.kind == "cross-encoder" else TextTokenizer
                read(self._repository.version_dir(triton_name, manifest.version), manifest)

    async def _load(self, model_id: ModelId, triton_name: str) -> None:
        try:
            await self._triton.client.load(triton_name, timeout=self._timeout)
        except ModelLoadFailed as error:
            log.error("Triton could not load %s: %s", triton_name, error.reason)
            raise InvalidModel(
                f"Triton could not load {model_id}; the server's log has the reason"
            ) from error
        except TritonUnavailable as error:
            raise Unavailable(
                f"Triton ended while it loaded {model_id} and is started again; "
                "the server's log has the reason"
            ) from error
        except TritonTimeout as error:
            # Such a load never ends by itself and would block every later load of this model.
            await self._triton.restart()
            raise DeadlineExceeded(
                f"Triton did not load {model_id} within LOAD_TIMEOUT ({self._timeout:g} s)"
            ) from error

    def _configs(self, parts: Parts) -> Configs:
        return {triton_name: self._repository.config(triton_name) for triton_name in parts}

    def _new_configs(self, before: Configs, old: Parts, new: Parts, tuning: Tuning) -> Configs:
        """Return the new version's configurations, with the old tuning and then the requested one."""
        if _versions(old) == _versions(new):
            return {triton_name: tuning.apply(config) for triton_name, config in before.items()}
        return {
            triton_name: tuning.apply(Tuning.of(config).apply(model_config(triton_name, new[triton_name])))
            for triton_name, config in before.items()
        }

    def _configure(self, configs: Configs, versions: dict[str, list[int]]) -> None:
        for triton_name, config in configs.items():
            self._repository.set_config(triton_name, with_versions(config, versions[triton_name]))

    def drop_other_versions(self, model_id: ModelId) -> None:
        """Remove all versions of a model except the one that requests use, from files and configuration.

        Raises:
            RepositoryError, ManifestError: The files cannot be read.
        """
        self._drop_other_versions(manifests(self._repository, model_id))

    def _drop_other_versions(self, parts: Parts) -> None:
        for triton_name, manifest in parts.items():
            self._repository.settle(triton_name, manifest.version)

    def _go_back(self, configs: Configs, old: Parts) -> None:
        for triton_name, config in configs.items():
            self._repository.set_config(triton_name, config)
        self._drop_other_versions(old)


def _versions(parts: Parts) -> list[int]:
    return [manifest.version for manifest in parts.values()]
