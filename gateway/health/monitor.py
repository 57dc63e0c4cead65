"""Knows at any time whether an inference could be served.

One task in each process polls Triton four times a second. A model that has computed something since the last
poll serves. An idle model is sent a small inference, past the cache, whose vector is compared. A missing
answer means little while the model's process computes, and much while it does nothing.

A model that is dead or blocked is sent nothing more, and its process is ended. That model alone is loaded
again, with its check, by `reconciler.py`, which finds it missing.
"""

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from filelock import AsyncFileLock, Timeout

from gateway.errors import Unavailable
from gateway.health.model_health import NOT_ASKED, NOT_LOADED, PATIENCE, POLL_SECONDS, REFUSED, ModelHealth
from gateway.health.probe import Probe, WrongVector
from triton_models.client.errors import (
    InferenceRejected,
    TritonError,
    TritonTimeout,
    TritonUnavailable,
    WrongAnswer,
)
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.triton import Triton

log = logging.getLogger(__name__)

ANSWER = 1.0
"""Timeout in seconds for Triton to report what it has computed, and to begin to unload a model."""

OUTDATED = 5.0
"""Age in seconds after which the result of the last poll no longer counts."""

LOST = 3
"""Missed polls in a row after which Triton is restarted, or a remote Triton is reconnected."""

PROBE_TIMEOUT = 60.0
MOST_LEFT = 16
"""Number of dead processes, whose threads (some dozens each) Triton still holds, that makes a restart due."""


class Monitor:
    """Polls Triton and its models until cancelled.

    After `compute_seconds` without an answer all callers have timed out; PATIENCE later the process is ended.
    """

    def __init__(self, repository: Repository, triton: Triton, *, compute_seconds: float) -> None:
        self._repository = repository
        self._triton = triton
        self._limit = compute_seconds + PATIENCE
        self._watched: dict[str, ModelHealth] = {}
        self._probes: dict[str, Probe] = {}
        self._states: dict[str, ModelState] = {}
        self._generation = triton.generation
        self._is_store: bool | None = None
        self._missed, self._missing, self._last = 0, 0.0, 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        # A thread of its own: the event loop's threads may all be busy with other work.
        self._files = ThreadPoolExecutor(1, "health")
        self.lost: str | None = "Triton is starting"
        """The reason why Triton cannot be used; None while it answers."""

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                self._wake.clear()
                try:
                    await self._look()
                except OSError as error:
                    log.error("the model repository cannot be read: %s", error)
                self._looked.set()
                self._looked = asyncio.Event()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        finally:
            for task in list(self._tasks.values()):
                task.cancel()
            self._files.shutdown(wait=False)

    def reason(self) -> str | None:
        """Return why no model at all can serve now; None if one may."""
        late = asyncio.get_running_loop().time() - self._last
        if self.lost is None and late > OUTDATED:
            return f"Triton and the repository could not be looked at for {late:.0f} s"
        return self.lost

    def require(self, triton_name: str) -> None:
        """Raise Unavailable if Triton, or the model, is known not to answer."""
        if self.lost is not None:
            raise Unavailable("Triton is not ready; retry in a moment")
        known = self._watched.get(triton_name)
        if known is not None and known.is_closed:
            raise Unavailable(f"the model cannot be asked, {known.reason}; retry in a moment")

    def problems(self) -> dict[str, str | None]:
        """Return, by name in Triton, why each wanted model cannot serve now; None for one that can."""
        now = asyncio.get_running_loop().time()
        found: dict[str, str | None] = {}
        for triton_name, state in self._states.items():
            if state.wanted:
                known = self._watched.get(triton_name)
                found[triton_name] = NOT_LOADED if known is None else known.problem(now)
        return found

    async def decided(self) -> None:
        """Poll, for a second at most, unless it is known already that a model serves or that none can."""
        problems = set(self.problems().values())
        if self.lost or None in problems or (problems and not problems & {NOT_ASKED, NOT_LOADED}):
            return
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER):
                await self._looked.wait()
                probes = [task for name, task in self._tasks.items() if name.startswith("probe ")]
                await asyncio.gather(*(asyncio.shield(task) for task in probes))

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._generation != self._triton.generation:
            self._generation = self._triton.generation
            self._watched.clear()
            self._is_store = None
        began = loop.time()
        try:
            computed = await self._computed()
        except TritonError as error:
            # If this process itself was held up, the timeout says nothing about Triton.
            if not isinstance(error, TritonTimeout) or loop.time() - began < ANSWER + POLL_SECONDS:
                self._miss(error)
            return
        # Read after the poll: a model that Triton had loaded by then and that has no activity now has passed
        # its check.
        self._states = await loop.run_in_executor(self._files, self._repository.states)
        self._missed, self.lost, self._last = 0, None, loop.time()
        loaded = {name: (version, count) for (name, version), count in sorted(computed.items())}
        for triton_name, state in self._states.items():
            if state.wanted:
                self._see(triton_name, loaded.get(triton_name), settled=state.activity is None)
        gone = [name for name in self._watched if not self._states.get(name, ModelState()).wanted]
        for triton_name in gone:
            del self._watched[triton_name]

    async def _computed(self) -> dict[tuple[str, int], int]:
        client = self._triton.client
        if self._is_store is None:
            self._is_store = await client.is_store(ANSWER)
        if self._is_store:
            # The inference store runs no model that could be probed; it would record or miss each probe.
            return {(one.name, one.version): 0 for one in await client.index() if one.state == "READY"}
        return await client.computed(ANSWER)

    def _see(self, triton_name: str, loaded: tuple[int, int] | None, *, settled: bool) -> None:
        """Update one model. `loaded`: version and requests computed; None if it is not in Triton.

        `settled` means that nobody changes the model now, and that its last load ended with its check.
        """
        now = asyncio.get_running_loop().time()
        known = self._watched.get(triton_name)
        if loaded is None:
            if known is not None:
                # The next load checks the model before it is settled; until then nothing is sent to it.
                known.close(NOT_LOADED)
            return
        version, count = loaded
        # While a new version is being loaded, the old one serves.
        if known is None or (settled and known.version != version):
            known = self._watched[triton_name] = ModelHealth(version, count)
            self._probes.pop(triton_name, None)
            if self._triton.stubs is not None:
                self._triton.stubs.find()
        if settled:
            known.observe_count(count, now)
        if (stubs := self._triton.stubs) is not None:
            owes = known.unanswered_for(now) > 0
            if known.ended_polls or (owes and not stubs.of(triton_name)):
                # The model may have been loaded again and have new processes.
                stubs.find()
            known.observe_processes(stubs.of(triton_name, closely=owes), now)
        if not settled:
            return
        self._heal(triton_name, known, now)
        if known.is_due(now):
            known.probed_at = now
            self._spawn(f"probe {triton_name} {id(known)}", self._probe(triton_name, known))

    async def _probe(self, triton_name: str, known: ModelHealth) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._is_store:
                known.mark_healthy(loop.time())
                return
            probe = self._probes.get(triton_name)
            if probe is None or probe.manifest.version != known.version:
                probe = await loop.run_in_executor(self._files, Probe.read, self._repository, triton_name)
                self._probes[triton_name] = probe
            began = known.probed_at = loop.time()
            await probe.ask(self._triton.client, PROBE_TIMEOUT)
            known.probe_seconds = loop.time() - began
            if known.is_closed:
                log.info("%s answers", triton_name)
            known.mark_healthy(loop.time())
        except WrongVector as error:
            self._note(triton_name, known, str(error))
            known.close("it answered a wrong vector")
            known.undelivered = REFUSED
        except (InferenceRejected, WrongAnswer, RepositoryError, OSError) as error:
            self._note(triton_name, known, str(error))
        except TritonUnavailable:
            # Triton answers, or there would be no probe; so it cannot reach the model's process.
            known.undelivered += 1
            self._note(triton_name, known, "its process in Triton does not answer")
        except TritonError as error:
            log.debug("no proof of %s: %s", triton_name, error)
        finally:
            known.probed_at = None

    def _note(self, triton_name: str, known: ModelHealth, reason: str) -> None:
        if known.mark_failed(reason):
            log.warning("%s does not serve: %s", triton_name, reason)

    def _heal(self, triton_name: str, known: ModelHealth, now: float) -> None:
        """Kill a blocked process, or release a model whose process is lost; only Triton's owner does it."""
        stubs = self._triton.stubs
        if stubs is not None and not self._triton.is_owner:
            return
        hung = known.is_hung(now, self._limit)
        if stubs is not None and stubs.of(triton_name) and not known.is_dead:
            if hung:
                log.error("the process of %s in Triton does not answer and is ended", triton_name)
                stubs.kill(triton_name)
        elif known.is_dead or hung:
            self._spawn(f"release {triton_name}", self._release(triton_name, known))

    async def _release(self, triton_name: str, known: ModelHealth) -> None:
        """Make Triton release a model whose process is lost; `reconciler.py` then loads the model again."""
        stubs = self._triton.stubs
        if stubs is not None and stubs.left >= MOST_LEFT:
            log.error("Triton holds on to %d processes that have ended and is started again", stubs.left)
            await self._triton.restart()
            return
        lock = AsyncFileLock(self._repository.lock_path(triton_name))
        try:
            # If another task holds the lock and changes the model, the next poll decides.
            async with await lock.acquire(timeout=0):
                log.error("the process of %s in Triton is lost: the model is loaded anew", triton_name)
                await self._triton.client.release(triton_name, ANSWER)
        except (Timeout, TritonError) as error:
            log.debug("%s is not released: %s", triton_name, error)
            return
        # Answers that the old process owes do not count against the new one.
        fresh = self._watched[triton_name] = ModelHealth(known.version, known.computed)
        fresh.close(NOT_LOADED)

    def _miss(self, error: TritonError) -> None:
        """Record that Triton did not answer a poll; after LOST of them restart or reconnect it."""
        now = asyncio.get_running_loop().time()
        self._missed += 1
        if self._missed == 1:
            self._missing = now
        stubs, silent = self._triton.stubs, isinstance(error, TritonTimeout)
        seen = stubs.triton() if stubs is not None else None
        if silent and seen is not None and seen.busy and now - self._missing < PATIENCE:
            return
        if self.lost is None:
            log.error("Triton does not answer: %s", error)
        self.lost = "Triton is not ready"
        overdue = self._missed >= LOST and now - self._missing >= LOST * ANSWER
        if self._triton.is_elsewhere and (overdue or not silent):
            self._spawn("reconnect", self._reconnect())
        elif overdue and stubs is not None and self._triton.is_owner:
            self._missed = 0
            self._spawn("restart", self._restart())

    async def _reconnect(self) -> None:
        await self._triton.reconnect()
        await asyncio.sleep(LOST * ANSWER)

    async def _restart(self) -> None:
        with suppress(TritonError):
            await self._triton.restart()

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start `work`, unless a task of this name is running."""
        if name in self._tasks:
            work.close()
            return
        task = self._tasks[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(name))
