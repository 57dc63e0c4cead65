"""Whether an inference could be served now, known before anybody asks.

One task a process looks at Triton four times a second. A model that has computed something since the last
look serves. One that nobody asks is sent a small inference, past the cache, whose vector is compared. That
no answer comes means little while the model's process computes, and much while it does nothing.

A model that is known to be dead or blocked is asked nothing more, and its process is ended: the model alone
is loaded anew (by `restore.py`, which finds it missing), with its check.
"""

import asyncio
import logging
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from filelock import AsyncFileLock, Timeout

from gateway.errors import Unavailable
from gateway.health.model_health import LOOK, NOT_ASKED, NOT_LOADED, PATIENCE, REFUSED, Watched
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
from triton_models.server.supervisor import Triton

log = logging.getLogger(__name__)

ANSWER = 1.0
"""Seconds that Triton may take to say what it has computed, and to begin to unload a model."""

OUTDATED = 5.0
"""Seconds after which what the last look saw says nothing any more."""

LOST = 3
"""Answers in a row that Triton owes, until it is killed, or looked for anew."""

PROBE_SECONDS = 60.0
MOST_LEFT = 16
"""Processes that ended and whose threads Triton keeps, some dozens each, until it is started again."""


class Monitor:
    """Looks at Triton and its models until cancelled.

    compute_seconds: after this long without an answer, whoever waited has been told so, and a process that
    still computes is ended.
    """

    def __init__(self, repository: Repository, triton: Triton, *, compute_seconds: float) -> None:
        self._repository = repository
        self._triton = triton
        self._limit = compute_seconds + PATIENCE
        self._watched: dict[str, Watched] = {}
        self._probes: dict[str, Probe] = {}
        self._states: dict[str, ModelState] = {}
        self._generation = triton.generation
        self._is_store: bool | None = None
        self._missed, self._missing, self._last = 0, 0.0, 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        # Its own: the loop's threads may all be busy with long texts.
        self._files = ThreadPoolExecutor(1, "health")
        self.lost: str | None = "Triton is starting"
        """Why nothing can be asked of Triton; None while it answers."""

    async def run(self) -> None:
        """Until cancelled."""
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
                    await asyncio.wait_for(self._wake.wait(), LOOK)
        finally:
            for task in list(self._tasks.values()):
                task.cancel()
            self._files.shutdown(wait=False)

    def reason(self) -> str | None:
        """Why no model at all could serve now; None where one might."""
        late = asyncio.get_running_loop().time() - self._last
        if self.lost is None and late > OUTDATED:
            return f"Triton and the repository could not be looked at for {late:.0f} s"
        return self.lost

    def require(self, served: str) -> None:
        """Return where it makes sense to ask a model.

        Raises:
            Unavailable: Triton does not answer, or the model does not.
        """
        if self.lost is not None:
            raise Unavailable("Triton is not ready; retry in a moment")
        known = self._watched.get(served)
        if known is not None and known.closed is not None:
            raise Unavailable(f"the model cannot be asked, {known.closed}; retry in a moment")

    def problems(self) -> dict[str, str | None]:
        """Why each wanted model could not serve now, by served name; None for one that could."""
        now = asyncio.get_running_loop().time()
        found: dict[str, str | None] = {}
        for served, state in self._states.items():
            if state.wanted:
                known = self._watched.get(served)
                found[served] = NOT_LOADED if known is None else known.problem(now)
        return found

    async def decided(self) -> None:
        """Return at once where a model serves, or none is left that could; else look, a second at most."""
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
            # Where this process itself was held up, that says nothing about Triton.
            if not isinstance(error, TritonTimeout) or loop.time() - began < ANSWER + LOOK:
                self._miss(error)
            return
        # After Triton was asked: what it had loaded by then, and shows no activity now, has passed its check.
        self._states = await loop.run_in_executor(self._files, self._repository.states)
        self._missed, self.lost, self._last = 0, None, loop.time()
        loaded = {name: (version, count) for (name, version), count in sorted(computed.items())}
        for served, state in self._states.items():
            if state.wanted:
                self._see(served, loaded.get(served), settled=state.activity is None)
        for served in [name for name in self._watched if not self._states.get(name, ModelState()).wanted]:
            del self._watched[served]

    async def _computed(self) -> dict[tuple[str, int], int]:
        client = self._triton.client
        if self._is_store is None:
            self._is_store = await client.is_store(ANSWER)
        if self._is_store:
            # It runs no model that could be probed, and would record or miss each probe.
            return {(one.name, one.version): 0 for one in await client.index() if one.state == "READY"}
        return await client.computed(ANSWER)

    def _see(self, served: str, loaded: tuple[int, int] | None, *, settled: bool) -> None:
        """Look at one model.

        loaded: its version and what it has computed, None where Triton does not have it. settled: nobody
        changes it now, and its last load has ended with its check.
        """
        now = asyncio.get_running_loop().time()
        known = self._watched.get(served)
        if loaded is None:
            if known is not None:
                # Whoever loads it again checks it before it is settled; until then it is not asked.
                known.closed = NOT_LOADED
            return
        version, count = loaded
        # While a new version is loaded beside it, the old one serves.
        if known is None or (settled and known.version != version):
            known = self._watched[served] = Watched(version, count)
            self._probes.pop(served, None)
            if self._triton.stubs is not None:
                self._triton.stubs.find()
        if settled:
            known.count(count, now)
        if (stubs := self._triton.stubs) is not None:
            owes = known.silent(now) > 0
            if known.ended or (owes and not stubs.of(served)):
                # There may be new ones: the model was loaded anew.
                stubs.find()
            known.see(stubs.of(served, closely=owes), now)
        if not settled:
            return
        self._heal(served, known, now)
        if known.is_due(now):
            known.asked = now
            self._spawn(f"probe {served} {id(known)}", self._probe(served, known))

    async def _probe(self, served: str, known: Watched) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._is_store:
                known.prove(loop.time())
                return
            probe = self._probes.get(served)
            if probe is None or probe.manifest.version != known.version:
                probe = await loop.run_in_executor(self._files, Probe.read, self._repository, served)
                self._probes[served] = probe
            began = known.asked = loop.time()
            await probe.ask(self._triton.client, PROBE_SECONDS)
            known.took = loop.time() - began
            if known.closed is not None:
                log.info("%s answers", served)
            known.prove(loop.time())
        except WrongVector as error:
            self._note(served, known, str(error))
            known.refused, known.closed = REFUSED, "it answered a wrong vector"
        except (InferenceRejected, WrongAnswer, RepositoryError, OSError) as error:
            self._note(served, known, str(error))
        except TritonUnavailable:
            # Triton answers, or this would not be asked: it cannot reach the model's process.
            known.refused += 1
            self._note(served, known, "its process in Triton does not answer")
        except TritonError as error:
            log.debug("no proof of %s: %s", served, error)
        finally:
            known.asked = None

    def _note(self, served: str, known: Watched, reason: str) -> None:
        if known.failed != reason:
            log.warning("%s does not serve: %s", served, reason)
        known.failed = reason

    def _heal(self, served: str, known: Watched, now: float) -> None:
        """End what is blocked, have loaded anew what has ended; of all front ends its owner does it."""
        stubs = self._triton.stubs
        if stubs is not None and not self._triton.is_owner:
            return
        hung = known.is_hung(now, self._limit)
        if stubs is not None and stubs.of(served) and not known.is_dead:
            if hung:
                log.error("the process of %s in Triton does not answer and is ended", served)
                stubs.kill(served)
        elif known.is_dead or hung:
            self._spawn(f"release {served}", self._release(served, known))

    async def _release(self, served: str, known: Watched) -> None:
        """Have Triton let go of a model whose process is lost; `restore.py` finds it missing and loads it."""
        stubs = self._triton.stubs
        if stubs is not None and stubs.left >= MOST_LEFT:
            log.error("Triton holds on to %d processes that have ended and is started again", stubs.left)
            await self._triton.restart()
            return
        lock = AsyncFileLock(self._repository.lock_path(served))
        try:
            # Where somebody changes the model already, the next look tells more.
            async with await lock.acquire(timeout=0):
                log.error("the process of %s in Triton is lost: the model is loaded anew", served)
                await self._triton.client.release(served, ANSWER)
        except (Timeout, TritonError) as error:
            log.debug("%s is not released: %s", served, error)
            return
        # What the old one still owes is nothing of the new one's.
        self._watched[served] = Watched(known.version, known.computed, closed=NOT_LOADED)

    def _miss(self, error: TritonError) -> None:
        """Triton did not answer a look: say so, and bring it back where that can be done."""
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
        """Begin `work`, unless what has this name is under way."""
        if name in self._tasks:
            work.close()
            return
        task = self._tasks[name] = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(name))
