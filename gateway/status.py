"""What is there and whether it could serve: the model lists, health, statistics."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import asdict
from typing import Any, NamedTuple

import httpx
from filelock import FileLock, Timeout

from gateway.errors import Unavailable
from gateway.jobs import LoadJobs
from gateway.metrics import exposition
from gateway.references import Reference, partners
from gateway.restore import Restorer
from gateway.schemas import RepositoryModel
from triton_models.config import Tuning
from triton_models.errors import TritonError
from triton_models.manifest import ManifestError
from triton_models.repository import Repository, RepositoryError
from triton_models.supervisor import Triton

log = logging.getLogger(__name__)

METRICS_TIMEOUT = 2.0
"""Seconds to wait for Triton's own metrics."""


class LoadedModel(NamedTuple):
    """A model that may be asked; converted: when, in seconds since 1970."""

    reference: Reference
    converted: int


class Status:
    """Answers the operators' questions; changes nothing."""

    def __init__(self, repository: Repository, triton: Triton, jobs: LoadJobs, restorer: Restorer) -> None:
        self._repository = repository
        self._triton = triton
        self._jobs = jobs
        self._restorer = restorer
        self._http = httpx.AsyncClient(timeout=METRICS_TIMEOUT, trust_env=False)

    async def close(self) -> None:
        """Close the connections to Triton's metrics."""
        await self._http.aclose()

    async def loaded_models(self) -> list[str]:
        """Served names of the models that are ready in Triton and verified, sorted."""
        ready = {model.name for model in await self._triton.client.index() if model.state == "READY"}
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
        states = {model.name: model for model in await self._triton.client.index()}
        return await asyncio.to_thread(self._repository_models, states)

    def _repository_models(self, index: dict[str, Any]) -> list[RepositoryModel]:
        known = self._repository.states()
        found = []
        for served in sorted({*self._repository.served_names(), *known, *index}):
            state = self._repository.state(served)
            shown = index[served].state if served in index else "UNAVAILABLE"
            reason = index[served].reason if served in index else ""
            if state.activity == "converting" and self._is_held(served):
                shown = "CONVERTING"
            elif state.error is not None and shown != "READY":
                shown, reason = "FAILED", state.error
            found.append(
                RepositoryModel(name=served, state=shown, reason=reason or None, **self._details(served))
            )
        return found

    def _details(self, served: str) -> dict[str, Any]:
        """What the files of a model tell; nothing where they cannot be read."""
        try:
            reference = Reference.of(self._repository.manifest(served))
            return {
                "model_name": reference.model_name,
                "pretrained": reference.pretrained,
                "tuning": asdict(Tuning.of(self._repository.config(served))),
                "engine": self._repository.engine(served),
            }
        except (RepositoryError, ManifestError):
            return {}

    def _is_held(self, served: str) -> bool:
        """Whether some process works on the model; a dead one's mark does not count."""
        lock = FileLock(self._repository.lock_path(served), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return True
        lock.release()
        return False

    async def check_health(self) -> None:
        """Return when an inference could be served now.

        Raises:
            Unavailable: with the reason.
        """
        try:
            ready = set(await self.loaded_models())
        except TritonError as error:
            log.debug("Triton: %s", error)
            raise Unavailable("Triton is not ready") from error
        states = await asyncio.to_thread(self._repository.states)
        wanted = {served for served, state in states.items() if state.wanted}
        if ready & wanted:
            return
        for job in self._jobs.running():
            step = job.progress
            raise Unavailable(f"loading {job.reference}: {step.step} {step.progress:.0%}, {step.message}")
        if missing := sorted(wanted) or self._restorer.waiting:
            raise Unavailable(f"not loaded yet: {', '.join(missing)}")
        if failed := {served: state.error for served, state in states.items() if state.error}:
            raise Unavailable("; ".join(f"{served} failed: {reason}" for served, reason in failed.items()))

    async def statistics(self) -> list[dict[str, Any]]:
        """Triton's statistics of each model."""
        return await self._triton.client.statistics()

    async def prometheus(self) -> bytes:
        """The front end's metrics and Triton's own, in Prometheus' text format."""
        own = await asyncio.to_thread(exposition)
        try:
            answer = await self._http.get(f"http://{self._triton.metrics_address}/metrics")
            answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("Triton's metrics could not be fetched: %s", error)
            return own + b"# Triton's own metrics could not be fetched.\n"
        return own + answer.content
