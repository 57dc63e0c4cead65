"""Talks to Triton over gRPC: the Open Inference Protocol, asynchronously.

Knows the wire and nothing about models on disk. Every call has a deadline. Foreign errors are
translated in one place, `_translate`, and none leaves this module.
"""

import asyncio
import itertools
import re
from types import TracebackType
from typing import Any, NamedTuple

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from triton_models.calls import embeddings, image_request, text_request, uncancelled
from triton_models.errors import (
    InferenceRejected,
    ModelLoadFailed,
    ModelNotReady,
    TritonError,
    TritonTimeout,
    TritonUnavailable,
)
from triton_models.statistics import statistics_as_dicts
from triton_models.tokens import mark_past_cache, mark_rows, mark_wants_tokens

QUERY_SECONDS = 5.0
"""Deadline of the calls that only ask, in seconds."""

_PROBE_SECONDS = 1.0
_UNLOAD_POLL_SECONDS = 0.02
_NOT_READY = re.compile("unknown model|not at ready state")
# The model was loaded with another max_batch_size: what is known of it is outdated, as of one that is gone.
_OUTDATED = re.compile("batch-size must be <=")
_STUB_DIED = re.compile("Stub process .* is not healthy")
_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels of equal arguments share one connection unless told not to.
    ("grpc.use_local_subchannel_pool", 1),
    # A Triton that is started again is found within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.enable_http_proxy", 0),
]


class IndexEntry(NamedTuple):
    """One version of one model as Triton sees it; version 0 and state "" for one never loaded."""

    name: str
    version: int
    state: str
    reason: str


class TritonClient:
    """A connection to the Triton at `url` ("host:port"). Made and used inside one running event loop.

    channels: connections used in turn.
    """

    def __init__(self, url: str, channels: int = 1) -> None:
        self.url = url
        self._channels = [grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS) for _ in range(channels)]
        self._stubs = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._turn = itertools.cycle([stub.ModelInfer for stub in self._stubs])

    async def close(self, grace: float | None = None) -> None:
        """End all connections; calls under way get `grace` seconds, then they fail."""
        await asyncio.gather(*(channel.close(grace) for channel in self._channels))

    async def __aenter__(self) -> "TritonClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def infer(
        self, name: str, version: int, token_rows: NDArray[np.int64], *, timeout: float, tokens: bool = False
    ) -> NDArray[np.float32]:
        """The vectors of `token_rows` (int64 [b, L], flags allowed): float32 [b, D], read-only.

        Rows are marked here (`tokens.mark_rows`), so that equal bytes always mean equal shape.
        timeout: in seconds. tokens: the vectors of all tokens, float32 [b, L, H].

        Raises:
            TokensNotServed: the backend has none of tokens.
            TritonError: any but ModelLoadFailed and EmbeddedTritonError.

        """
        if token_rows.size == 0:
            raise InferenceRejected(f"a request to {name} needs a row and every row a token")
        marked = mark_rows(token_rows)
        leading = marked.shape if tokens else marked.shape[:1]
        if tokens:
            marked = mark_wants_tokens(marked)
        vectors = await self._infer(text_request(name, version, marked), leading, timeout)
        if vectors is None:
            # Triton caches failures: a request that failed once is answered with nothing ever after.
            again = text_request(name, version, mark_past_cache(marked))
            vectors = await self._infer(again, leading, timeout)
        if vectors is None:
            raise InferenceRejected(f"Triton could not compute the request to {name}")
        return vectors

    async def _infer(
        self, request: service_pb2.ModelInferRequest, leading: tuple[int, ...], timeout: float
    ) -> NDArray[np.float32] | None:
        """The answer as it comes, float32 [*leading, D]; None for an answer without a vector."""
        try:
            response = await uncancelled(next(self._turn), request, timeout)
        except grpc.aio.AioRpcError as error:
            raise await self._translate(error, request.model_name) from error
        except asyncio.CancelledError as error:
            raise _closed_or_cancelled() from error
        return embeddings(response, *leading)

    async def infer_images(
        self, name: str, version: int, pixels: NDArray[np.uint8], *, timeout: float
    ) -> NDArray[np.float32]:
        """The vectors of `pixels` (uint8 [b, H, W, 3]): float32 [b, D], read-only.

        H and W are the model's, so equal bytes mean equal shape. timeout: in seconds.

        Raises:
            TritonError: any but ModelLoadFailed and EmbeddedTritonError.

        """
        vectors = await self._infer(image_request(name, version, pixels), pixels.shape[:1], timeout)
        if vectors is None:
            # A failure that Triton has cached, as above; twice the images are other bytes.
            twice = np.concatenate([pixels, pixels])
            vectors = await self._infer(image_request(name, version, twice), twice.shape[:1], timeout)
        if vectors is None:
            raise InferenceRejected(f"Triton could not compute the request to {name}")
        return vectors[: len(pixels)]

    async def load(self, name: str, timeout: float) -> None:
        """Load the model, or load it again if its files changed.

        Raises:
            ModelLoadFailed: Triton could not.
            TritonTimeout: the load hangs; Triton must be started again before the model can be loaded.
            TritonUnavailable: nobody answers.

        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        await self._change(self._stubs[0].RepositoryModelLoad, request, name, timeout)

    async def unload(self, name: str, timeout: float) -> None:
        """Unload the model; returns when Triton has let it go. One that is not loaded is no error.

        Raises:
            ModelLoadFailed, TritonTimeout, TritonUnavailable: as `load`.

        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        deadline = asyncio.get_running_loop().time() + timeout
        await self._change(self._stubs[0].RepositoryModelUnload, request, name, timeout)
        # Triton answers before the model is gone.
        while any(
            entry.name == name and entry.state not in ("", "UNAVAILABLE") for entry in await self.index()
        ):
            if asyncio.get_running_loop().time() > deadline:
                raise TritonTimeout(f"Triton did not let {name} go within {timeout:g} s")
            await asyncio.sleep(_UNLOAD_POLL_SECONDS)

    async def index(self) -> list[IndexEntry]:
        """Every model in Triton's repository, loaded or not, by name and version."""
        response = await self._ask(self._stubs[0].RepositoryIndex, service_pb2.RepositoryIndexRequest())
        entries = (
            IndexEntry(model.name, int(model.version or 0), model.state, model.reason)
            for model in response.models
        )
        # Triton takes every directory for a model, `.state` among them.
        return sorted(entry for entry in entries if not entry.name.startswith("."))

    async def server_ready(self, timeout: float = QUERY_SECONDS) -> bool:
        """Whether Triton answers within `timeout` seconds and is not stopping. Raises nothing."""
        # Not Triton's ServerReady: by default that is false as soon as any one model failed to load.
        try:
            request = service_pb2.ServerLiveRequest()
            response = await self._stubs[0].ServerLive(request, timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.live)

    async def model_ready(self, name: str, version: int) -> bool:
        """Whether Triton serves this version now.

        Raises:
            TritonTimeout, TritonUnavailable: it could not be asked.

        """
        request = service_pb2.ModelReadyRequest(name=name, version=str(version))
        try:
            response = await self._ask(self._stubs[0].ModelReady, request, name)
        except (ModelNotReady, InferenceRejected):
            return False
        return bool(response.ready)

    async def statistics(self) -> list[dict[str, Any]]:
        """Triton's statistics of every loaded model, in the form of `/metrics` (see `statistics.py`).

        Raises:
            TritonTimeout, TritonUnavailable: it could not be asked.

        """
        request = service_pb2.ModelStatisticsRequest()
        return statistics_as_dicts(await self._ask(self._stubs[0].ModelStatistics, request))

    async def _ask(self, method: Any, request: Any, name: str = "") -> Any:  # noqa: ANN401 - generated, untyped
        try:
            return await method(request, timeout=QUERY_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise await self._translate(error, name) from error

    async def _change(self, method: Any, request: Any, name: str, timeout: float) -> None:  # noqa: ANN401 - as above
        try:
            await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            translated = await self._translate(error, name)
            if isinstance(translated, TritonTimeout | TritonUnavailable):
                raise translated from error
            raise ModelLoadFailed(name, error.details() or "") from error

    async def _translate(self, error: grpc.aio.AioRpcError, name: str) -> TritonError:
        """The error of ours for one of gRPC.

        The code alone does not tell: UNAVAILABLE is both "this version is not ready" and "nobody
        answers", an unknown model is NOT_FOUND or INVALID_ARGUMENT.
        """
        code, details = error.code(), error.details() or ""
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return TritonTimeout("Triton did not answer in time")
        if code == grpc.StatusCode.NOT_FOUND or _NOT_READY.search(details) or _OUTDATED.search(details):
            return ModelNotReady(f"{name} is not loaded")
        if code in _NOBODY or _STUB_DIED.search(details):
            return TritonUnavailable("Triton is not available")
        if code == grpc.StatusCode.INTERNAL and not await self.server_ready(_PROBE_SECONDS):
            return TritonUnavailable("Triton is not available")
        reason = _REQUEST_ID.sub("", details.splitlines()[0] if details else code.name)
        return InferenceRejected(f"Triton refused the request to {name}: {reason}")


def _closed_or_cancelled() -> BaseException:
    """What a cancelled call means: the caller is cancelled, or the client was closed under the call."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return TritonUnavailable("Triton is not available")
