"""The choice of what answers a request: a record, the server, or neither.

While a server can be asked, a record answers only if the answer depends on nothing but the request: good
answers to inferences outside sequences. For the server's state, steps of sequences and errors, the server is
asked again. A record answers them only if there is no server (`serve`) or it cannot be reached (`auto`).
This module does not know how requests arrive.
"""

import asyncio
import logging
import time
from collections import Counter
from enum import StrEnum

from inference_store.answers import without_id
from inference_store.backends import Backend, BackendUnavailable, CannotRecord
from inference_store.errors import Invalid, Lost, Miss, NotRecorded, Refused, StoreError, Unavailable
from inference_store.identity import (
    STRICT,
    Description,
    Matching,
    canonical,
    describe,
    describe_call,
    identity,
)
from inference_store.index import RecordIndex
from inference_store.protocol import INFER, METHODS, Message
from inference_store.record import Outcome, Record, UnreadableRecord, make
from inference_store.sequences import Sequences, in_sequence
from inference_store.target import Metadata, Target
from inference_store.tensors import MalformedTensor, raw_contents

log = logging.getLogger(__name__)

_REFUSED = ("SystemSharedMemoryRegister", "CudaSharedMemoryRegister")
UNKNOWN_SEQUENCE = "a sequence of model {!r} is continued that did not begin through this store"
_SHARED_MEMORY = "shared memory holds tensors where the store cannot see them: send them in the request"


class Mode(StrEnum):
    """The mode of a store.

    `serve` answers only from records, `collect` always asks the server and records its answers, and `auto`
    answers from records and asks the server for the rest.
    """

    SERVE = "serve"
    COLLECT = "collect"
    AUTO = "auto"


class Store:
    """A store that answers from the records of a backend and from a server.

    Args:
        mode: Whether records or the server answer, see `Mode`.
        backend: The place for records.
        target: The server; only `serve` works without one.
        matching: The rules by which a record may answer a different request.
        max_record_bytes: Limit of request and answers together, above which nothing is recorded.
    """

    def __init__(
        self,
        mode: Mode,
        backend: Backend,
        target: Target | None,
        *,
        matching: Matching = STRICT,
        max_record_bytes: int = 1 << 30,
    ) -> None:
        self.mode = mode
        self.backend = backend
        self.target = target
        self.sequences = Sequences()
        self._index = RecordIndex(backend, matching)
        self._max_record_bytes = max_record_bytes
        self._replayed: Counter[str] = Counter()
        self._under_way: dict[str, asyncio.Task[Outcome]] = {}

    async def infer(self, request: Message, metadata: Metadata) -> Outcome:
        """Return the answer to a ModelInferRequest, without its id.

        Raises:
            StoreError: There is no answer.
        """
        description = self.describe(request, INFER)
        if not in_sequence(description):
            return await self._answer(description, request, metadata, stateful=False)
        step = self.sequences.follow(description)
        if step is not None:
            return await self._answer(step, request, metadata, stateful=True)
        if self.mode is Mode.SERVE:
            raise Miss(UNKNOWN_SEQUENCE.format(description["model"]))
        return await self._ask(description["method"], request, metadata)

    async def call(self, method: str, request: Message, metadata: Metadata) -> Outcome:
        """Return the answer to any other call, except a stream.

        Raises:
            StoreError: There is no answer.
        """
        if method in _REFUSED:
            raise Refused(_SHARED_MEMORY)
        if self.mode is Mode.SERVE and method in ("ServerLive", "ServerReady"):
            field = "live" if method == "ServerLive" else "ready"
            return Outcome((METHODS[method].answer(**{field: True}).SerializeToString(),))
        outcome = await self._answer(describe_call(method, request), request, metadata, stateful=True)
        return self._counted(outcome) if method == "ModelStatistics" and outcome.good else outcome

    def describe(self, request: Message, method: str) -> Description:
        """Return the description of an inference.

        Raises:
            Refused: Tensors are in shared memory.
        """
        for tensor in (*request.inputs, *request.outputs):
            if "shared_memory_region" in tensor.parameters:
                raise Refused(_SHARED_MEMORY)
        return describe(request, method)

    def count_replay(self, description: Description) -> None:
        """Count an inference that a record answered."""
        if "inputs" in description:
            self._replayed[description["model"]] += 1

    def _counted(self, outcome: Outcome) -> Outcome:
        """Add the answers that this store has replayed to ModelStatistics, as successes from a cache.

        They count as queued too, because perf_analyzer reports nothing about a model without queued requests.
        """
        statistics = METHODS["ModelStatistics"].answer.FromString(outcome.answers[0])
        for model in statistics.model_stats:
            stats = model.inference_stats
            for figure in (stats.success, stats.queue, stats.cache_hit):
                figure.count += self._replayed[model.name]
        return Outcome((statistics.SerializeToString(),))

    async def find(self, description: Description, request: Message, key: str | None = None) -> Record | None:
        """Return the record that answers, or None; `key` is the description's identity, if already known.

        Raises:
            Lost, Unavailable: The record or the backend cannot be read, and the mode is `serve`.
        """
        try:
            record = await self.backend.get(key or identity(description))
            if record is None and "inputs" in description:
                record = await self._index.match(description, request)
        except UnreadableRecord as error:
            log.error("%s", error)
            if self.mode is Mode.SERVE:
                raise Lost(str(error)) from error
            return None
        except BackendUnavailable as error:
            if self.mode is Mode.SERVE:
                raise Unavailable(f"the records cannot be read: {error}") from error
            return None
        return record

    async def keep(
        self,
        description: Description,
        request: Message,
        outcome: Outcome,
        started: float,
        key: str | None = None,
    ) -> None:
        """Record an outcome; `started` is the time.perf_counter() at which the server was asked.

        Raises:
            NotRecorded: The outcome cannot be recorded in `collect`. In `auto` that is only logged.
        """
        kept = canonical(request) if "inputs" in description or "malformed" in description else None
        data = request.SerializeToString(deterministic=True) if kept is None else kept
        record = make(description, data, outcome, time.perf_counter() - started, key)
        try:
            self._check_size(record)
            await self.backend.put(record)
        except CannotRecord as error:
            if self.mode is Mode.COLLECT:
                raise NotRecorded(f"the server answered, but that could not be recorded: {error}") from error
            log.error("not recorded: %s", error)

    def _check_size(self, record: Record) -> None:
        if record.size > self._max_record_bytes:
            raise CannotRecord(
                f"request and answer have over {self._max_record_bytes} bytes (max_record_bytes)"
            )

    async def miss(self, description: Description, request: Message) -> StoreError:
        """Return the error for a request that no record answers."""
        try:
            if "malformed" in description:
                raw_contents(request)
            miss = Miss(await self._index.explain(description, request))
        except MalformedTensor as error:
            return Invalid(str(error))
        except BackendUnavailable as error:
            return Unavailable(f"the records cannot be read: {error}")
        log.error("miss: %s", miss)
        return miss

    async def _answer(
        self, description: Description, request: Message, metadata: Metadata, *, stateful: bool
    ) -> Outcome:
        record, key = None, identity(description)
        if self.mode is Mode.SERVE or (self.mode is Mode.AUTO and not stateful):
            record = await self.find(description, request, key)
            if record is not None and (record.outcome.good or self.mode is Mode.SERVE):
                self.count_replay(description)
                return record.outcome
        if self.mode is Mode.SERVE:
            return await self._unrecorded(description, request)
        try:
            if stateful:
                return await self._fetch(description, request, metadata, key)
            return await self._once(description, request, metadata, key)
        except Unavailable as error:
            if self.mode is Mode.AUTO and stateful:
                record = await self.find(description, request, key)
            if record is None:
                raise
            log.warning("%s; answered by record %s", error, record.key)
            return record.outcome

    async def _unrecorded(self, description: Description, request: Message) -> Outcome:
        """Answer a call without a record in `serve`: ModelReady, or an error."""
        if description["method"] == "ModelReady":
            try:
                ready = await self._index.has_model(request.name, request.version)
            except BackendUnavailable as error:
                raise Unavailable(f"the records cannot be read: {error}") from error
            return Outcome((METHODS["ModelReady"].answer(ready=ready).SerializeToString(),))
        raise await self.miss(description, request)

    async def _once(
        self, description: Description, request: Message, metadata: Metadata, key: str
    ) -> Outcome:
        """Ask the server; callers of the same request at the same time share the answer.

        The call goes on when its caller leaves: others may wait for it, and the answer is worth recording.
        """
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(description, request, metadata, key))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key))
        return await asyncio.shield(task)

    async def _fetch(
        self, description: Description, request: Message, metadata: Metadata, key: str
    ) -> Outcome:
        started = time.perf_counter()
        outcome = await self._ask(description["method"], request, metadata)
        await self.keep(description, request, outcome, started, key)
        return outcome

    async def _ask(self, method: str, request: Message, metadata: Metadata) -> Outcome:
        assert self.target is not None, "only `serve` has no target"
        outcome = await self.target.ask(method, request.SerializeToString(), metadata)
        return without_id(outcome, request.id) if method == INFER else outcome

    async def drain(self) -> None:
        """Wait for the running calls to the server."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
