"""One ModelStreamInfer, in which each request is answered and recorded separately.

A stream has the answers to several requests in any order, and only their ids tell them apart. So the store
sends requests to the server under its own ids, and asks the server to mark each request's last answer. The
client sees neither. Steps of a sequence are followed as elsewhere (`sequences.py`).
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import grpc.aio
from google.protobuf.message import DecodeError

from inference_store.answers import stream_with_id, stream_without_id
from inference_store.errors import Invalid, Miss, StoreError, Unavailable
from inference_store.identity import Description
from inference_store.protocol import STREAM, InferRequest, Message, StreamResponse
from inference_store.record import Outcome
from inference_store.sequences import in_sequence
from inference_store.store import UNKNOWN_SEQUENCE, Mode, Store
from inference_store.target import Metadata

log = logging.getLogger(__name__)

_WANTS_END = "triton_enable_empty_final_response"
_END = "triton_final_response"
_WAITING = 64
"""The most answers held for a client that does not read; beyond that the server is not read either."""


@dataclass
class _Asked:
    """A request that the server is answering; the description is None if it is not to be recorded."""

    description: Description | None
    request: Message
    started: float
    answers: list[bytes] = field(default_factory=list)

    @property
    def wants_end(self) -> bool:
        """True if the client itself asked for the empty last answer."""
        parameters = self.request.parameters
        return _WANTS_END in parameters and parameters[_WANTS_END].bool_param


class Stream:
    """One client's stream. Iterate `answers` once; `stop` ends the stream after the answers in progress."""

    def __init__(self, store: Store, requests: AsyncIterator[bytes], metadata: Metadata) -> None:
        self._store = store
        self._requests = requests
        self._metadata = metadata
        self._out: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(_WAITING)
        self._asked: dict[str, _Asked] = {}
        self._ids = map(str, itertools.count(1))
        self._upstream: asyncio.Queue[bytes | None] | None = None
        self._pump: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Take no more requests."""
        self._stopping.set()

    async def answers(self) -> AsyncIterator[bytes]:
        """Yield serialized ModelStreamInferResponses.

        Raises:
            StoreError, Ended: The stream as a whole failed.
        """
        reading = asyncio.create_task(self._read())
        try:
            while (item := await self._out.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            for task in (reading, self._pump):
                if task is not None:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def _read(self) -> None:
        """Take the requests one by one, and end the stream after the last one's answers."""
        try:
            while (data := await self._next()) is not None:
                await self._take(InferRequest.FromString(data))
            if self._upstream is not None:
                self._upstream.put_nowait(None)
            if self._pump is not None:
                await self._pump
        except DecodeError:
            await self._out.put(Invalid("the request is no message of the protocol"))
        else:
            await self._out.put(None)

    async def _next(self) -> bytes | None:
        """Return the next request, or None at the end or when the store stops."""
        waiting = asyncio.ensure_future(anext(self._requests, None))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
            stopping.cancel()

    async def _take(self, request: Message) -> None:
        """Answer from the record, or ask the server. What is wrong with one request is said in the stream."""
        store, stateful = self._store, False
        try:
            description: Description | None = store.describe(request, STREAM)
            assert description is not None
            if in_sequence(description):
                stateful, description = True, store.sequences.follow(description)
                if description is None and store.mode is Mode.SERVE:
                    raise Miss(UNKNOWN_SEQUENCE.format(request.model_name))
            if description is not None and await self._replayed(description, request, stateful=stateful):
                return
        except StoreError as error:
            await self._out.put(stream_with_id(_error(error), request.id))
            return
        self._send(description, request)

    async def _replayed(self, description: Description, request: Message, *, stateful: bool) -> bool:
        """Answer from a record, if possible; return whether a record has answered."""
        store = self._store
        if store.mode is Mode.COLLECT or (store.mode is Mode.AUTO and stateful):
            return False
        record = await store.find(description, request)
        if record is None and store.mode is Mode.SERVE:
            raise await store.miss(description, request)
        if record is None or (store.mode is Mode.AUTO and not _good(record.outcome)):
            return False
        store.count_replay(description)
        await self._replay(record.outcome, request.id)
        return True

    async def _replay(self, outcome: Outcome, request_id: str) -> None:
        for answer in outcome.answers:
            await self._out.put(stream_with_id(answer, request_id))

    def _send(self, description: Description | None, request: Message) -> None:
        """Send a request on the single stream to the server."""
        if self._upstream is None:
            self._upstream = asyncio.Queue()
            self._pump = asyncio.create_task(self._receive(self._upstream))
        number = next(self._ids)
        sent = InferRequest()
        sent.CopyFrom(request)
        sent.id = number
        sent.parameters[_WANTS_END].bool_param = True
        self._asked[number] = _Asked(description, request, time.perf_counter())
        self._upstream.put_nowait(sent.SerializeToString())

    async def _receive(self, requests: asyncio.Queue[bytes | None]) -> None:
        """Pass on the server's answers until it ends the stream."""
        target = self._store.target
        assert target is not None, "only `serve` has no target"
        try:
            async for data in target.stream(_until_none(requests), self._metadata):
                await self._pass_on(StreamResponse.FromString(data))
            if self._asked:
                raise Unavailable(f"the target {target.address} ended the stream before its last answer")
        except grpc.aio.AioRpcError as error:
            try:
                outcome = target.outcome(error)
            except StoreError as passing:
                await self._broken(passing)
            else:
                await self._out.put(Ended(outcome))
        except StoreError as error:
            await self._broken(error)
        except DecodeError:
            await self._out.put(StoreError("the target's answer is no ModelStreamInferResponse"))

    async def _broken(self, error: StoreError) -> None:
        """Answer the open requests from records; the next request tries the server again."""
        self._upstream, asked = None, list(self._asked.values())
        self._asked.clear()
        for one in asked:
            record = None
            if one.description is not None and not one.answers and self._store.mode is Mode.AUTO:
                record = await self._store.find(one.description, one.request)
            if record is None:
                await self._out.put(error)
                return
            log.warning("%s; answered by record %s", error, record.key)
            await self._replay(record.outcome, one.request.id)

    async def _pass_on(self, answer: Message) -> None:
        """Pass an answer to the client under the client's id; before a last answer, record the request."""
        number = answer.infer_response.id
        if number not in self._asked:
            number = next(iter(self._asked))
        asked = self._asked[number]
        parameters = answer.infer_response.parameters
        # A server that does not mark last answers sends one answer for each request.
        ended = bool(answer.error_message) or _END not in parameters or parameters[_END].bool_param
        only_end = ended and not answer.error_message and not answer.infer_response.outputs
        kept = stream_without_id(answer, number)
        if not only_end or asked.wants_end or not asked.answers:
            asked.answers.append(kept)
        else:
            kept = b""
        if ended:
            del self._asked[number]
            kept = await self._record(asked, kept)
        if kept:
            await self._out.put(stream_with_id(kept, asked.request.id))

    async def _record(self, asked: _Asked, last: bytes) -> bytes:
        """Record all answers to a request; return the last one, or an error if they cannot be recorded."""
        if asked.description is None:
            return last
        try:
            outcome = Outcome(tuple(asked.answers))
            await self._store.keep(asked.description, asked.request, outcome, asked.started)
        except StoreError as error:
            return _error(error)
        return last


class Ended(Exception):
    """The server ended the stream with an error."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def _error(error: StoreError) -> bytes:
    return bytes(StreamResponse(error_message=f"{error.code}: {error}").SerializeToString())


def _good(outcome: Outcome) -> bool:
    return not any(StreamResponse.FromString(answer).error_message for answer in outcome.answers)


async def _until_none(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes]:
    while (item := await queue.get()) is not None:
        yield item
