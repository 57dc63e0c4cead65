"""What is there and whether it could serve: the model lists, health, statistics."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple

import httpx

from gateway.errors import Unavailable
from gateway.health.monitor import Monitor
from gateway.model_id import Reference, partners
from gateway.models.load_jobs import LoadJobs
from gateway.models.locks import is_held
from gateway.models.reconciler import Restorer

pass
from typing import Any

from pydantic import BaseModel

from gateway.api.prometheus import scrape
from gateway.model_id import Reference
from gateway.server.shutdown import Shutdown
from triton_models.client.index import ready_names
from triton_models.contract.config import Tuning
from triton_models.contract.manifest import ManifestError
from triton_models.repository.damage import problem
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.supervisor import Triton

log = logging.getLogger(__name__)


class LoadedModel(NamedTuple):
    """A model that may be asked; converted: when, in seconds since 1970."""

    reference: Reference
    converted: int


class Status:
    """Answers the operators' questions; changes nothing."""

    def __init__(
        self,
        repository: Repository,
        triton: Triton,
        jobs: LoadJobs,
        restorer: Restorer,
        monitor: Monitor,
        shutdown: Shutdown,
    ) -> None:
        self._repository = repository
        self._triton = triton
        self._jobs = jobs
        self._restorer = restorer
        self._monitor = monitor
        self._shutdown = shutdown
        self._http = httpx.AsyncClient(trust_env=False)

    async def close(self) -> None:
        """Close the connections to Triton's metrics."""
        await self._http.aclose()

    async def loaded_models(self) -> list[str]:
        """Served names of the models that are ready in Triton and verified, sorted."""
        ready = ready_names(await self._triton.client.index())
        return await asyncio.to_thread(self._whole, ready)

    async def loaded(self) -> list[LoadedModel]:
        """The models behind these names; the two towers of a CLIP model are one."""
        return await asyncio.to_thread(self._loaded, await self.loaded_models())

    def _loaded(self, served_names: list[str]) -> list[LoadedModel]:
        found = {}
        for served in served_names:
            with suppress(RepositoryError, ManifestError):
                reference = Reference.of(self._repository.manifest(served))
                converted = int(self._repository.version_dir(served).stat().st_mtime)
                found[reference] = LoadedModel(reference, converted)
        return sorted(found.values(), key=lambda model: model.reference.id)

    def _whole(self, ready: set[str]) -> list[str]:
        """Those of `ready` that may be asked: verified, and a tower only beside its other half."""
        states = self._repository.states()
        settled = {name for name in ready if name not in states or states[name].activity != "loading"}
        return sorted(name for name in settled if partners(name) <= settled or self._is_alone(name))

    def _is_alone(self, served: str) -> bool:
        """Whether a model that is named like a tower is none."""
        try:
            return self._repository.manifest(served).tower is None
        except (RepositoryError, ManifestError):
            return True

    async def repository_models(self) -> list[RepositoryModel]:
        """Every model of the repository, and those being converted or failed."""
        index = await self._triton.client.index()
        # The one of a model's versions that serves, where one does.
        states = {model.name: model for model in sorted(index, key=lambda entry: entry.state == "READY")}
        return await asyncio.to_thread(self._repository_models, states, self._monitor.problems())

    def _repository_models(
        self, index: dict[str, Any], problems: dict[str, str | None]
    ) -> list[RepositoryModel]:
        known = self._repository.states()
        found = []
        for served in sorted({*self._repository.served_names(), *known, *index}):
            state = known.get(served, ModelState())
            shown = index[served].state if served in index else "UNAVAILABLE"
            reason = index[served].reason if served in index else ""
            if state.activity == "converting" and is_held(self._repository, served):
                shown = "CONVERTING"
            elif state.error is not None and shown != "READY":
                shown, reason = "FAILED", state.error
            elif state.error is not None:
                # It serves in the version before.
                reason = state.error
            elif shown not in ("READY", "LOADING") and (damage := problem(self._repository, served)):
                shown, reason = "FAILED", damage
            # Triton calls a model ready whose process is dead or blocked.
            reason = reason or problems.get(served) or ""
            found.append(
                RepositoryModel(name=served, state=shown, reason=reason or None, **self._details(served))
            )
        return found

    def _details(self, served: str) -> dict[str, Any]:
        """What the files of a model tell; nothing where they cannot be read."""
        try:
            manifest = self._repository.manifest(served)
            reference = Reference.of(manifest)
            return {
                "model_name": reference.model_name,
                "pretrained": reference.pretrained,
                "tuning": asdict(Tuning.of(self._repository.config(served))),
                "engine": self._repository.engine(served),
                "notice": manifest.notice,
            }
        except (RepositoryError, ManifestError):
            return {}

    async def check_health(self) -> dict[str, str]:
        """Return when an inference could be served now: the wanted models that could not, and why.

        Raises:
            Unavailable: with the reason.
        """
        if self._shutdown.begun:
            raise Unavailable("the server is shutting down")
        # A model may have been loaded since the last look.
        await self._monitor.decided()
        if reason := self._monitor.reason():
            raise Unavailable(reason)
        problems = self._monitor.problems()
        if None in problems.values():
            return {served: problem for served, problem in problems.items() if problem is not None}
        for job in self._jobs.running():
            step = job.progress
            raise Unavailable(f"loading {job.reference}: {step.step} {step.progress:.0%}, {step.message}")
        if waiting := self._restorer.waiting:
            raise Unavailable(f"not loaded yet: {', '.join(waiting)}")
        if problems:
            raise Unavailable("; ".join(f"{served}: {problem}" for served, problem in problems.items()))
        states = await asyncio.to_thread(self._repository.states)
        if failed := {served: state.error for served, state in states.items() if state.error}:
            raise Unavailable("; ".join(f"{served} failed: {reason}" for served, reason in failed.items()))
        return {}

    async def statistics(self) -> list[dict[str, Any]]:
        """Triton's statistics of each model."""
        return await self._triton.client.statistics()

    async def prometheus(self) -> bytes:
        """The front end's metrics and Triton's own, in Prometheus' text format."""
        return await scrape(self, self._http, self._triton.metrics_address)


class RepositoryModel(BaseModel):
    """One model of `GET /repository_models`.

    tuning: as of the load routes. engine: what computes it on the CPU, chosen from what was measured.
    notice: what to know of the model, as the load said it; None of most.
    """

    name: str
    state: str
    model_name: str | None = None
    pretrained: str | None = None
    reason: str | None = None
    tuning: dict[str, int | bool] | None = None
    engine: dict[str, Any] | None = None
    notice: str | None = None
