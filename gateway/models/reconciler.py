"""Loads the wanted models into Triton at start, and again whenever Triton has lost them.

Each process of the server also drops unloaded models from its memory here.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field

from gateway.errors import GatewayError, Overloaded, Unavailable
from gateway.model_id import ModelId
from gateway.models.capacity import Capacity
from gateway.models.catalog import Catalog
from gateway.models.lifecycle import Lifecycle
from gateway.models.load_jobs import LoadJobs
from gateway.models.readiness import ReadinessGate
from triton_models.client.errors import TritonError
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.triton import Triton

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two polls of Triton."""

BACKOFF = (1.0, 60.0)
"""First and longest wait, in seconds, before a failed restore or load is tried again."""


@dataclass(eq=False)
class Reconciler:
    """Polls Triton in one task per process; a model's lock keeps processes from doing the same work.

    `waiting` has the models of LOAD_MODELS whose load has not begun, or waits to be tried again.
    """

    repository: Repository
    triton: Triton
    lifecycle: Lifecycle
    jobs: LoadJobs
    capacity: Capacity
    catalog: Catalog
    readiness: ReadinessGate
    waiting: list[str]
    _trimmed: bool = field(default=False, init=False)
    _retry: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)
    _running: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _restoring: set[str] = field(default_factory=set, init=False)
    _unready: str = field(default="", init=False)

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                try:
                    await self.capacity.note_use(self.readiness.take_used())
                    await self._look()
                    self._unready = ""
                except TritonError as error:
                    # Log each reason once; a wrong header or certificate for a remote Triton is one.
                    if str(error) != self._unready:
                        log.info("Triton is not ready: %s", error)
                    self._unready = str(error)
                except OSError as error:
                    log.error("the repository cannot be read or written: %s", error)
                await asyncio.sleep(INTERVAL)
        finally:
            for task in self._running:
                task.cancel()

    async def _look(self) -> None:
        index = await self.triton.client.index()
        in_triton = {model.name for model in index if model.state in ("READY", "LOADING")}
        if not self._trimmed:
            names = [ModelId.parse(name) for name in self.waiting]
            find = self.lifecycle.names.find
            await self.capacity.trim([await asyncio.to_thread(find, model_id) for model_id in names])
            self._trimmed = True
            if self.capacity.is_limited:
                self._spawn(self._load_in_order())
            else:
                self._load_at_once()
        states = await asyncio.to_thread(self.repository.states)
        await self.catalog.keep_only({triton_name for triton_name, state in states.items() if state.wanted})
        for triton_name, state in states.items():
            due = self._retry.get(triton_name, (0.0, 0.0))[0] <= time.monotonic()
            # A recorded activity means that a task is changing the model. Restoring waits for that task's
            # lock; if the process has died, the lock is free and the model is restored.
            settled = triton_name in in_triton and state.activity is None
            if state.wanted and not settled and due and triton_name not in self._restoring:
                self._restoring.add(triton_name)
                self._spawn(self._restore(triton_name))

    def _load_at_once(self) -> None:
        while self.waiting:
            self._spawn(self._load(self.waiting.pop(0)))

    async def _load_in_order(self) -> None:
        # One after another, so that it does not depend on chance which model finds no room.
        while self.waiting:
            await self._load(self.waiting.pop(0))

    async def _load(self, name: str) -> None:
        wait, longest = BACKOFF
        while True:
            try:
                answer = await self.jobs.start(ModelId.parse(name)).result()
            except (Overloaded, Unavailable, TritonError) as error:
                log.error("%s could not be loaded, next try in %g s: %s", name, wait, error)
                self.waiting.append(name)
                await asyncio.sleep(wait)
                self.waiting.remove(name)
                wait = min(longest, 2 * wait)
            except GatewayError as error:
                log.error("%s could not be loaded: %s", name, error)
                return
            else:
                log.info(answer)
                return

    async def _restore(self, triton_name: str) -> None:
        try:
            await self.lifecycle.restore(triton_name)
            self._retry.pop(triton_name, None)
        except (GatewayError, TritonError, RepositoryError) as error:
            first, longest = BACKOFF
            wait = min(longest, 2 * self._retry.get(triton_name, (0.0, first / 2))[1])
            self._retry[triton_name] = (time.monotonic() + wait, wait)
            log.error("%s could not be restored, next try in %g s: %s", triton_name, wait, error)
        finally:
            self._restoring.discard(triton_name)

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
