"""Reports the server's status: the lists of models, health, statistics."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel

from gateway.errors import Unavailable
from gateway.health.monitor import Monitor
from gateway.model_id import ModelId, partners
from gateway.models.load_jobs import LoadJobs
from gateway.models.locks import is_held
from gateway.models.reconciler import Reconciler
from triton_models.client.index import ready_names
from triton_models.contract.config import Tuning
from triton_models.contract.manifest import Kind, ManifestError
from triton_models.repository.damage import diagnose
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.triton import Triton


class RepositoryModel(BaseModel):
    """One model of `GET /repository_models`.

    `kind` is embedding or cross-encoder. `tuning` has the fields of the load routes. `engine` is the engine
    on the CPU, chosen by measurement. `notice` is what the load said about the model; most models have none.
    """

    name: str
    state: str
    model_name: str | None = None
    pretrained: str | None = None
    kind: Kind | None = None
    reason: str | None = None
    tuning: dict[str, int | bool] | None = None
    engine: dict[str, Any] | None = None
    notice: str | None = None


class LoadedModel(NamedTuple):
    """A model that is ready; `converted` is the time of its conversion, in seconds since 1970."""

    model_id: ModelId
    converted: int
    kind: Kind


@dataclass(eq=False)
class Status:
    """Reports models, health and statistics; changes nothing.

    Attributes:
        repository: The model repository.
        triton: The Triton in use.
        jobs: The loads in progress.
        reconciler: Knows which models are still to be loaded at start.
        monitor: Knows the health of Triton and its models.
        is_ending: Returns whether the server has begun to shut down.
    """

    repository: Repository
    triton: Triton
    jobs: LoadJobs
    reconciler: Reconciler
    monitor: Monitor
    is_ending: Callable[[], bool]

    async def loaded_models(self) -> list[str]:
        """Return the names in Triton, sorted, of the models that are ready there and verified."""
        ready = ready_names(await self.triton.client.index())
        return await asyncio.to_thread(self._whole, ready)

    async def loaded(self) -> list[LoadedModel]:
        """Return the models of `loaded_models`; the two towers of a CLIP model are one."""
        return await asyncio.to_thread(self._loaded, await self.loaded_models())

    def _loaded(self, triton_names: list[str]) -> list[LoadedModel]:
        found = {}
        for triton_name in triton_names:
            with suppress(RepositoryError, ManifestError):
                manifest = self.repository.manifest(triton_name)
                model_id = ModelId.of(manifest)
                converted = int(self.repository.version_dir(triton_name).stat().st_mtime)
                found[model_id] = LoadedModel(model_id, converted, manifest.kind)
        return sorted(found.values(), key=lambda model: model.model_id.id)

    def _whole(self, ready: set[str]) -> list[str]:
        """Return the names in `ready` of verified models; a tower counts only if its other tower does too."""
        states = self.repository.states()
        settled = {name for name in ready if name not in states or states[name].activity != "loading"}
        return sorted(name for name in settled if partners(name) <= settled or self._is_alone(name))

    def _is_alone(self, triton_name: str) -> bool:
        """Return whether a model that is named like a tower is a text model."""
        try:
            return self.repository.manifest(triton_name).tower is None
        except (RepositoryError, ManifestError):
            return True

    async def repository_models(self) -> list[RepositoryModel]:
        """Return every model of the repository, and those that are being converted or have failed."""
        index = await self.triton.client.index()
        # Of a model's versions, the one that serves goes last and wins.
        states = {model.name: model for model in sorted(index, key=lambda entry: entry.state == "READY")}
        return await asyncio.to_thread(self._repository_models, states, self.monitor.problems())

    def _repository_models(
        self, index: dict[str, Any], problems: dict[str, str | None]
    ) -> list[RepositoryModel]:
        known = self.repository.states()
        found = []
        for triton_name in sorted({*self.repository.triton_names(), *known, *index}):
            state = known.get(triton_name, ModelState())
            shown = index[triton_name].state if triton_name in index else "UNAVAILABLE"
            reason = index[triton_name].reason if triton_name in index else ""
            if state.activity == "converting" and is_held(self.repository, triton_name):
                shown = "CONVERTING"
            elif state.error is not None and shown != "READY":
                shown, reason = "FAILED", state.error
            elif state.error is not None:
                # The previous version serves.
                reason = state.error
            elif shown not in ("READY", "LOADING") and (damage := diagnose(self.repository, triton_name)):
                shown, reason = "FAILED", damage
            # Triton reports a model as ready even if its process is dead or blocked.
            reason = reason or problems.get(triton_name) or ""
            found.append(
                RepositoryModel(
                    name=triton_name, state=shown, reason=reason or None, **self._details(triton_name)
                )
            )
        return found

    def _details(self, triton_name: str) -> dict[str, Any]:
        """Return the details that a model's files give; nothing if they cannot be read."""
        try:
            manifest = self.repository.manifest(triton_name)
            model_id = ModelId.of(manifest)
            return {
                "model_name": model_id.model_name,
                "pretrained": model_id.pretrained,
                "kind": manifest.kind,
                "tuning": asdict(Tuning.of(self.repository.config(triton_name))),
                "engine": self.repository.engine(triton_name),
                "notice": manifest.notice,
            }
        except (RepositoryError, ManifestError):
            return {}

    async def check_health(self) -> dict[str, str]:
        """Check that an inference could be served now; return why some wanted models, by name, cannot serve.

        Raises:
            Unavailable: No model can serve; the message has the reason.
        """
        if self.is_ending():
            raise Unavailable("the server is shutting down")
        # A model may have been loaded since the last poll.
        await self.monitor.decided()
        if reason := self.monitor.reason():
            raise Unavailable(reason)
        problems = self.monitor.problems()
        if None in problems.values():
            return {triton_name: problem for triton_name, problem in problems.items() if problem is not None}
        for job in self.jobs.running():
            step = job.progress
            raise Unavailable(f"loading {job.model_id}: {step.step} {step.progress:.0%}, {step.message}")
        if waiting := self.reconciler.waiting:
            raise Unavailable(f"not loaded yet: {', '.join(waiting)}")
        if problems:
            raise Unavailable(
                "; ".join(f"{triton_name}: {problem}" for triton_name, problem in problems.items())
            )
        states = await asyncio.to_thread(self.repository.states)
        if failed := {triton_name: state.error for triton_name, state in states.items() if state.error}:
            raise Unavailable(
                "; ".join(f"{triton_name} failed: {reason}" for triton_name, reason in failed.items())
            )
        return {}

    async def statistics(self) -> list[dict[str, Any]]:
        """Return Triton's statistics of each model."""
        return await self.triton.client.statistics()
