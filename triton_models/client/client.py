"""Talks to Triton over gRPC: the Open Inference Protocol, asynchronously.

Knows the wire and nothing about models on disk. Every call has a deadline. Foreign errors are
translated in one place, `grpc_errors.py`, and none leaves this module.
"""

import asyncio
import itertools
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from triton_models.client.channel import OPEN, Access
from triton_models.client.errors import (
    InferenceRejected,
    ModelLoadFailed,
    ModelNotReady,
    NotFinite,
    TritonTimeout,
    TritonUnavailable,
)
from triton_models.client.grpc_errors import closed_or_cancelled, translated
from triton_models.client.index import IndexEntry
from triton_models.client.requests import (
    AS_CONFIGURED,
    Asked,
    Queueing,
    embeddings,
    image_requests,
    text_requests,
    uncancelled,
)
from triton_models.client.statistics import statistics_as_dicts

QUERY_SECONDS = 5.0
"""Deadline of the calls that only ask, in seconds."""

STORE_METADATA = "inference-store"
"""What an inference store (inference_store/) adds to its answer to ServerLive."""

_UNLOAD_POLL_SECONDS = 0.02


class TritonClient:
    """A connection to the Triton at `url` ("host:port" or "unix:PATH"). Of one running event loop.

    channels: connections used in turn. access: what that Triton asks for.
    """

    def __init__(self, url: str, channels: int = 1, access: Access = OPEN) -> None:
        self.url = url
        self._channels = [access.channel(url) for _ in range(channels)]
        self._stubs = [access.stub(channel) for channel in self._channels]
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
        self,
        name: str,
        version: int,
        token_rows: NDArray[np.int64],
        *,
        timeout: float,
        tokens: bool = False,
        queueing: Queueing = AS_CONFIGURED,
    ) -> NDArray[np.float32]:
        """The vectors of `token_rows` (int64 [b, L], flags allowed): float32 [b, D], read-only.

        Rows are marked here (`tokens.mark_rows`), so that equal bytes always mean equal shape.
        timeout: in seconds. tokens: the vectors of all tokens, float32 [b, L, H].
        queueing: how Triton's queue treats the request.

        Raises:
            TokensNotServed: the backend has none of tokens.
            NotFinite: the model computes no finite vector for a row.
            TritonError: any but ModelLoadFailed and EmbeddedTritonError.

        """
        if token_rows.size == 0:
            raise InferenceRejected(f"a request to {name} needs a row and every row a token")
        requests = text_requests(name, version, token_rows, tokens=tokens)
        return await self._answer(requests, len(token_rows), timeout, queueing)

    async def _answer(
        self, requests: Iterable[Asked], rows: int, timeout: float, queueing: Queueing
    ) -> NDArray[np.float32]:
        """The vectors of the first `rows` rows, by the first of the requests that is answered with any."""
        for request, leading in requests:
            try:
                vectors = await self._infer(request, leading, timeout, queueing)
            except NotFinite as error:
                if error.row < rows:
                    raise
                # Of the random row beside them.
                raise TritonUnavailable("Triton answered no vector; the next try is another") from error
            if vectors is not None:
                return vectors[:rows]
        raise TritonUnavailable("Triton answered without a vector")

    async def _infer(
        self,
        request: service_pb2.ModelInferRequest,
        leading: tuple[int, ...],
        timeout: float,
        queueing: Queueing,
    ) -> NDArray[np.float32] | None:
        """The answer as it comes, float32 [*leading, D]; None for an answer without a vector."""
        queueing.apply(request, timeout)
        try:
            response = await uncancelled(next(self._turn), request, timeout, queueing.watcher)
        except grpc.aio.AioRpcError as error:
            raise await translated(error, request.model_name, self.server_ready) from error
        except asyncio.CancelledError as error:
            raise closed_or_cancelled() from error
        return embeddings(response, *leading)

    async def infer_images(
        self,
        name: str,
        version: int,
        pixels: NDArray[np.uint8],
        *,
        timeout: float,
        queueing: Queueing = AS_CONFIGURED,
    ) -> NDArray[np.float32]:
        """The vectors of `pixels` (uint8 [b, H, W, 3]): float32 [b, D], read-only.

        H and W are the model's, so equal bytes mean equal shape. timeout: in seconds.
        queueing: as of `infer`.

        Raises:
            NotFinite: the model computes no finite vector for an image.
            TritonError: any but ModelLoadFailed and EmbeddedTritonError.

        """
        return await self._answer(image_requests(name, version, pixels), len(pixels), timeout, queueing)

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

    async def release(self, name: str, timeout: float) -> None:
        """Begin to unload a model and do not wait for its end: where its process has died, that never comes.

        Raises:
            ModelLoadFailed, TritonTimeout, TritonUnavailable: as `load`.

        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        await self._change(self._stubs[0].RepositoryModelUnload, request, name, timeout)

    async def computed(self, timeout: float) -> dict[tuple[str, int], int]:
        """Requests that each loaded model has computed, those answered from the cache left out.

        By name and version. timeout: in seconds.

        Raises:
            TritonTimeout, TritonUnavailable: it could not be asked.

        """
        request = service_pb2.ModelStatisticsRequest()
        response = await self._ask(self._stubs[0].ModelStatistics, request, timeout=timeout)
        return {
            (model.name, int(model.version)): model.inference_stats.success.count
            - model.inference_stats.cache_hit.count
            for model in response.model_stats
        }

    async def index(self) -> list[IndexEntry]:
        """Every model in Triton's repository, loaded or not, by name and version."""
        try:
            response = await self._ask(self._stubs[0].RepositoryIndex, service_pb2.RepositoryIndexRequest())
        except InferenceRejected:
            # A link in the repository's directory that leads nowhere keeps Triton from listing anything.
            loaded = await self.statistics()
            return [IndexEntry(model["name"], int(model["version"]), "READY", "") for model in loaded]
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

    async def is_store(self, timeout: float) -> bool:
        """Whether an inference store answers, which knows recorded answers and runs no model.

        Raises:
            TritonTimeout, TritonUnavailable: nobody answers. timeout: in seconds.

        """
        call = self._stubs[0].ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise await translated(error, "", self.server_ready) from error
        return any(name == STORE_METADATA for name, _ in await call.trailing_metadata())

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

    async def _ask(
        self,
        method: Any,  # noqa: ANN401 - generated, untyped
        request: Any,  # noqa: ANN401 - as above
        name: str = "",
        timeout: float = QUERY_SECONDS,
    ) -> Any:  # noqa: ANN401 - as above
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise await translated(error, name, self.server_ready) from error

    async def _change(self, method: Any, request: Any, name: str, timeout: float) -> None:  # noqa: ANN401 - as above
        try:
            await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            reason = await translated(error, name, self.server_ready)
            if isinstance(reason, TritonTimeout | TritonUnavailable):
                raise reason from error
            raise ModelLoadFailed(name, error.details() or "") from error
