"""What answers a request: a record, the server, or neither. Knows nothing about how requests arrive.

Only what depends on nothing but the request may be answered from a record while a server can be asked: good
answers to inferences that belong to no sequence. The state of the server, steps of sequences and errors are
asked for anew, and taken from the record where there is no server (`serve`) or it cannot be reached (`auto`).
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
    """serve: records alone. collect: always the server. auto: records, and the server for the rest."""

    SERVE = "serve"
    COLLECT = "collect"
    AUTO = "auto"


class Store:
    """Answers by records of `backend` and by `target`, which only `serve` can do without.

    max_record_bytes: of request and answers together; what is larger is not recorded.
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
        """The answer to a ModelInferRequest, without its id.

        Raises:
            StoreError: there is none.

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
        """The answer to any other call but a stream.

        Raises:
            StoreError: there is none.

        """
        if method in _REFUSED:
            raise Refused(_SHARED_MEMORY)
        if self.mode is Mode.SERVE and method in ("ServerLive", "ServerReady"):
            field = "live" if method == "ServerLive" else "ready"
            return Outcome((METHODS[method].answer(**{field: True}).SerializeToString(),))
        outcome = await self._answer(describe_call(method, request), request, metadata, stateful=True)
        return self._counted(outcome) if method == "ModelStatistics" and outcome.good else outcome

    def describe(self, request: Message, method: str) -> Description:
        """The description of an inference.

        Raises:
            Refused: tensors are in shared memory.

        """
        for tensor in (*request.inputs, *request.outputs):
            if "shared_memory_region" in tensor.parameters:
                raise Refused(_SHARED_MEMORY)
        return describe(request, method)

    def count_replay(self, description: Description) -> None:
        """Count an answer to an inference that was taken from the record."""
        if "inputs" in description:
            self._replayed[description["model"]] += 1

    def _counted(self, outcome: Outcome) -> Outcome:
        """ModelStatistics with what this store has replayed, as successes that a cache answered.

        The queue is counted too: perf_analyzer reports nothing of a model that nobody queued for.
        """
        statistics = METHODS["ModelStatistics"].answer.FromString(outcome.answers[0])
        for model in statistics.model_stats:
            stats = model.inference_stats
            for figure in (stats.success, stats.queue, stats.cache_hit):
                figure.count += self._replayed[model.name]
        return Outcome((statistics.SerializeToString(),))

    async def find(self, description: Description, request: Message, key: str | None = None) -> Record | None:
        """The record that answers. key: the description's identity, where that is known.

        Raises:
            Lost, Unavailable: in `serve`, where nothing else can answer.

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
        """Record an outcome; `started` is of time.perf_counter().

        Raises:
            NotRecorded: it cannot be, in `collect`. In `auto` that is logged.

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
        """The error for a request that no record answers."""
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
        """The answer in `serve` to what has no record."""
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
        """Ask the server; callers of the same request while it is asked share the answer.

        The call goes on when its caller leaves: others may wait for it, and it is worth recording.
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
        """Wait for what is being asked."""
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
