"""Brings into Triton what should be there: at start, and whenever Triton comes back without it.

What is unloaded is forgotten here too, by each process of the server.
"""

import asyncio
import logging
import time

from gateway.errors import GatewayError, Overloaded, Unavailable
from gateway.model_id import Reference
from gateway.models.capacity import Capacity
from gateway.models.catalog import Catalog
from gateway.models.lifecycle import Lifecycle
from gateway.models.load_jobs import LoadJobs
from gateway.models.readiness import Verified
from triton_models.client.errors import TritonError
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.supervisor import Triton

log = logging.getLogger(__name__)

INTERVAL = 0.5
"""Seconds between two looks at Triton."""

BACKOFF = (1.0, 60.0)
"""First and longest wait in seconds after a model could not be restored, or Triton was away for its load."""


class Restorer:
    """One task a process; the model's lock keeps several processes from doing the same work."""

    def __init__(
        self,
        repository: Repository,
        triton: Triton,
        lifecycle: Lifecycle,
        jobs: LoadJobs,
        capacity: Capacity,
        catalog: Catalog,
        verified: Verified,
        load_models: tuple[str, ...],
    ) -> None:
        self._repository = repository
        self._triton = triton
        self._lifecycle = lifecycle
        self._jobs = jobs
        self._capacity = capacity
        self._catalog = catalog
        self._verified = verified
        self._trimmed = False
        self._waiting = list(load_models)
        self._retry: dict[str, tuple[float, float]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._restoring: set[str] = set()
        self._unready = ""

    @property
    def waiting(self) -> list[str]:
        """Models named by LOAD_MODELS whose load has not begun, or begins anew in a moment."""
        return self._waiting

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    await self._capacity.note_use(self._verified.take_used())
                    await self._look()
                    self._unready = ""
                except TritonError as error:
                    # Once for each reason: a wrong header or certificate for a Triton elsewhere is one.
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
        index = await self._triton.client.index()
        in_triton = {model.name for model in index if model.state in ("READY", "LOADING")}
        if not self._trimmed:
            await self._capacity.trim(Reference.parse(name) for name in self._waiting)
            self._trimmed = True
            if self._capacity.is_limited:
                self._spawn(self._load_in_order())
            else:
                self._load_at_once()
        states = await asyncio.to_thread(self._repository.states)
        await self._catalog.keep_only({served for served, state in states.items() if state.wanted})
        for served, state in states.items():
            due = self._retry.get(served, (0.0, 0.0))[0] <= time.monotonic()
            # A model that something is being done with is the business of whoever does it, unless that
            # one died: only then does its lock let the restoring begin with the activity still there.
            settled = served in in_triton and state.activity is None
            if state.wanted and not settled and due and served not in self._restoring:
                self._restoring.add(served)
                self._spawn(self._restore(served))

    def _load_at_once(self) -> None:
        while self._waiting:
            self._spawn(self._load(self._waiting.pop(0)))

    async def _load_in_order(self) -> None:
        # So that it does not depend on chance who finds no room.
        while self._waiting:
            await self._load(self._waiting.pop(0))

    async def _load(self, name: str) -> None:
        wait, longest = BACKOFF
        while True:
            try:
                answer = await self._jobs.start(Reference.parse(name)).result()
            except (Overloaded, Unavailable, TritonError) as error:
                log.error("%s could not be loaded, next try in %g s: %s", name, wait, error)
                self._waiting.append(name)
                await asyncio.sleep(wait)
                self._waiting.remove(name)
                wait = min(longest, 2 * wait)
            except GatewayError as error:
                log.error("%s could not be loaded: %s", name, error)
                return
            else:
                log.info(answer)
                return

    async def _restore(self, served: str) -> None:
        try:
            await self._lifecycle.restore(served)
            self._retry.pop(served, None)
        except (GatewayError, TritonError, RepositoryError) as error:
            first, longest = BACKOFF
            wait = min(longest, 2 * self._retry.get(served, (0.0, first / 2))[1])
            self._retry[served] = (time.monotonic() + wait, wait)
            log.error("%s could not be restored, next try in %g s: %s", served, wait, error)
        finally:
            self._restoring.discard(served)

    def _spawn(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
