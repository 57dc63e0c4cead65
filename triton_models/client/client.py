"""An asynchronous client of Triton over gRPC, by the Open Inference Protocol.

This module knows the protocol and nothing about models on disk. Every call has a deadline. `grpc_errors.py`
translates gRPC's errors, none of which leaves this module.
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

from triton_models.client.channel import OPEN, ChannelOptions
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
    QueueOptions,
    embeddings,
    image_requests,
    text_requests,
)
from triton_models.client.statistics import statistics_as_dicts
from triton_models.contract.config import OUTPUT

QUERY_SECONDS = 5.0
"""The deadline of calls that only query, in seconds."""

STORE_METADATA = "inference-store"
"""The trailing metadata that an inference store (inference_store/) adds to its answer to ServerLive."""

_UNLOAD_POLL_SECONDS = 0.02


class TritonClient:
    """A client of one Triton, for use in one running event loop.

    Args:
        url: "host:port" or "unix:PATH".
        channels: Number of connections, which are used in turn.
        access: TLS and headers that Triton requires.
    """

    def __init__(self, url: str, channels: int = 1, access: ChannelOptions = OPEN) -> None:
        self.url = url
        self._channels = [access.channel(url) for _ in range(channels)]
        self._stubs = [access.stub(channel) for channel in self._channels]
        self._infer_call = access.infer_call
        self._turn = itertools.cycle([stub.ModelInfer for stub in self._stubs])

    async def close(self, grace: float | None = None) -> None:
        """Close all connections; running calls get `grace` seconds, then they fail."""
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
        output: str = OUTPUT,
        queueing: QueueOptions = AS_CONFIGURED,
    ) -> NDArray[np.float32]:
        """Return the vectors of token rows, or a cross-encoder's logits of pairs, read-only.

        Args:
            name: Name of the model in Triton.
            version: Version of the model.
            token_rows: int64 [b, L], flags allowed. `mark_rows` marks them: equal bytes mean equal shapes.
            timeout: Time to wait, in seconds.
            tokens: Return the vectors of all tokens.
            output: Name of the model's output, see `output_of`.
            queueing: Options for Triton's queue.

        Returns:
            float32 [b, D], or [b, L, H] for `tokens`.

        Raises:
            TokensNotServed: The backend or the model gives no vectors for tokens.
            NotFinite: The model computes no finite vector for a row.
            TritonError: Any but ModelLoadFailed and EmbeddedTritonError.
        """
        if token_rows.size == 0:
            raise InferenceRejected(f"a request to {name} needs a row and every row a token")
        requests = text_requests(name, version, token_rows, tokens=tokens, output=output)
        return await self._answer(requests, len(token_rows), timeout, queueing)

    async def _answer(
        self, requests: Iterable[Asked], rows: int, timeout: float, queueing: QueueOptions
    ) -> NDArray[np.float32]:
        """Return the vectors of the first `rows` rows, from the first request whose answer is not empty."""
        for request, leading in requests:
            try:
                vectors = await self._infer(request, leading, timeout, queueing)
            except NotFinite as error:
                if error.row < rows:
                    raise
                # The vector of the added random row is not finite, not one of the caller's rows.
                raise TritonUnavailable("Triton answered no vector; the next try is another") from error
            if vectors is not None:
                return vectors[:rows]
        raise TritonUnavailable("Triton answered without a vector")

    async def _infer(
        self,
        request: service_pb2.ModelInferRequest,
        leading: tuple[int, ...],
        timeout: float,
        queueing: QueueOptions,
    ) -> NDArray[np.float32] | None:
        """Return the answer to one request, float32 [*leading, D], or None if it is empty."""
        queueing.apply(request, timeout)
        try:
            response = await self._infer_call(next(self._turn), request, timeout, queueing.watcher)
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
        queueing: QueueOptions = AS_CONFIGURED,
    ) -> NDArray[np.float32]:
        """Return the vectors of `pixels` (uint8 [b, H, W, 3]): float32 [b, D], read-only.

        H and W are the model's, so equal bytes mean equal shapes. The other parameters are as for `infer`.

        Raises:
            NotFinite: The model computes no finite vector for an image.
            TritonError: Any but ModelLoadFailed and EmbeddedTritonError.
        """
        return await self._answer(image_requests(name, version, pixels), len(pixels), timeout, queueing)

    async def load(self, name: str, timeout: float) -> None:
        """Load the model, or load it again if its files changed.

        Raises:
            ModelLoadFailed: Triton could not load it.
            TritonTimeout: The load hangs; Triton must be restarted before the model can be loaded.
            TritonUnavailable: Nobody answers.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=name)
        await self._change(self._stubs[0].RepositoryModelLoad, request, name, timeout)

    async def unload(self, name: str, timeout: float) -> None:
        """Unload the model and return when Triton has released it. It is no error if it is not loaded.

        Raises:
            ModelLoadFailed, TritonTimeout, TritonUnavailable: As for `load`.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        await self.release(name, timeout)
        # Triton answers before the model is gone.
        while any(
            entry.name == name and entry.state not in ("", "UNAVAILABLE") for entry in await self.index()
        ):
            if asyncio.get_running_loop().time() > deadline:
                raise TritonTimeout(f"Triton did not let {name} go within {timeout:g} s")
            await asyncio.sleep(_UNLOAD_POLL_SECONDS)

    async def release(self, name: str, timeout: float) -> None:
        """Begin to unload a model without waiting for the end, which never comes if its process has died.

        Raises:
            ModelLoadFailed, TritonTimeout, TritonUnavailable: As for `load`.
        """
        request = service_pb2.RepositoryModelUnloadRequest(model_name=name)
        await self._change(self._stubs[0].RepositoryModelUnload, request, name, timeout)

    async def computed(self, timeout: float) -> dict[tuple[str, int], int]:
        """Return the number of requests that each loaded model has computed, by name and version.

        Requests answered from the cache do not count. `timeout` is in seconds.

        Raises:
            TritonTimeout, TritonUnavailable: Triton could not be asked.
        """
        request = service_pb2.ModelStatisticsRequest()
        response = await self._ask(self._stubs[0].ModelStatistics, request, timeout=timeout)
        return {
            (model.name, int(model.version)): model.inference_stats.success.count
            - model.inference_stats.cache_hit.count
            for model in response.model_stats
        }

    async def index(self) -> list[IndexEntry]:
        """Return every model in Triton's repository, loaded or not, sorted by name and version."""
        try:
            response = await self._ask(self._stubs[0].RepositoryIndex, service_pb2.RepositoryIndexRequest())
        except InferenceRejected:
            # A broken link in the repository's directory keeps Triton from listing anything.
            loaded = await self.statistics()
            return [IndexEntry(model["name"], int(model["version"]), "READY", "") for model in loaded]
        entries = (
            IndexEntry(model.name, int(model.version or 0), model.state, model.reason)
            for model in response.models
        )
        # Triton takes every directory for a model, `.state` among them.
        return sorted(entry for entry in entries if not entry.name.startswith("."))

    async def server_ready(self, timeout: float = QUERY_SECONDS) -> bool:
        """Return whether Triton answers within `timeout` seconds and is not stopping, and raise nothing."""
        # This is not Triton's ServerReady, which by default is false as soon as one model failed to load.
        try:
            request = service_pb2.ServerLiveRequest()
            response = await self._stubs[0].ServerLive(request, timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.live)

    async def is_store(self, timeout: float) -> bool:
        """Return whether an inference store answers, which has recorded answers and runs no model.

        Raises:
            TritonTimeout, TritonUnavailable: Nobody answers within `timeout` seconds.
        """
        call = self._stubs[0].ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            raise await translated(error, "", self.server_ready) from error
        return any(name == STORE_METADATA for name, _ in await call.trailing_metadata())

    async def model_ready(self, name: str, version: int) -> bool:
        """Return whether Triton serves this version now.

        Raises:
            TritonTimeout, TritonUnavailable: Triton could not be asked.
        """
        request = service_pb2.ModelReadyRequest(name=name, version=str(version))
        try:
            response = await self._ask(self._stubs[0].ModelReady, request, name)
        except (ModelNotReady, InferenceRejected):
            return False
        return bool(response.ready)

    async def statistics(self) -> list[dict[str, Any]]:
        """Return Triton's statistics of every loaded model, in the form of `/metrics` (see `statistics.py`).

        Raises:
            TritonTimeout, TritonUnavailable: Triton could not be asked.
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
