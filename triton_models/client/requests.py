"""Requests to Triton and their answers, and calls that are never cancelled."""

import asyncio
import functools
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from triton_models.client.errors import NotFinite, TokensNotServed, TritonTimeout, WrongAnswer
from triton_models.contract.accuracy import first_not_finite
from triton_models.contract.config import IMAGE_INPUT, IMAGE_OUTPUT, INPUT, OUTPUT
from triton_models.contract.tokens import beside_random, mark_past_cache, mark_rows, mark_wants_tokens

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the gateway's current request, or "". Triton's log and errors name it; its cache ignores it."""

LATE_SECONDS = 30.0
"""The seconds after the caller's own limit at which a call to Triton ends too."""


class CallObserver(Protocol):
    """An observer of calls, whose end in Triton may come long after their caller has left."""

    def began(self) -> None:
        """Note that a call begins."""

    def ended(self) -> None:
        """Note that a call has ended in Triton."""


class QueueOptions(NamedTuple):
    """The options of a call for Triton's queue.

    Attributes:
        expires: Triton drops the request if it is not begun before the caller's limit, provided that the
            configuration bounds the queue. This is not in the key of Triton's response cache, and does not
            keep requests from being merged.
        watcher: Observer of the call, or None.
    """

    expires: bool = False
    watcher: CallObserver | None = None

    def apply(self, request: service_pb2.ModelInferRequest, timeout: float) -> None:
        """Write the options into a request whose caller waits `timeout` seconds."""
        if self.expires:
            request.parameters["timeout"].int64_param = max(1, int(timeout * 1e6))


AS_CONFIGURED = QueueOptions()
"""The options that leave everything to the model's configuration."""


Asked = tuple[service_pb2.ModelInferRequest, tuple[int, ...]]
"""A request, and all dimensions of its answer but the last one."""


def text_requests(
    name: str, version: int, rows: NDArray[np.int64], *, tokens: bool, output: str = OUTPUT
) -> Iterator[Asked]:
    """Yield the request for vectors of `rows`, then two more, each to be sent if the answer before is empty.

    Triton caches failures: a request that failed once gets an empty answer ever after. The second request has
    other bytes. The third has more rows, of random ids, and so new bytes each time.

    Args:
        name: Name of the model in Triton.
        version: Version of the model.
        rows: Token ids, int64 [b, L].
        tokens: Request a vector for each token, not for each row.
        output: Name of the model's output.
    """
    marked = mark_rows(rows)
    leading = marked.shape if tokens else marked.shape[:1]
    if tokens:
        marked = mark_wants_tokens(marked)
    yield text_request(name, version, marked, output), leading
    yield text_request(name, version, mark_past_cache(marked), output), leading
    more = mark_rows(beside_random(rows))
    if tokens:
        more = mark_wants_tokens(more)
    yield text_request(name, version, more, output), (len(more), *leading[1:])


def image_requests(name: str, version: int, pixels: NDArray[np.uint8]) -> Iterator[Asked]:
    """Yield the request for images (uint8 [b, H, W, 3]), then one with images of noise added."""
    yield image_request(name, version, pixels), pixels.shape[:1]
    more = beside_noise(pixels)
    yield image_request(name, version, more), more.shape[:1]


def text_request(
    name: str, version: int, rows: NDArray[np.int64], output: str = OUTPUT
) -> service_pb2.ModelInferRequest:
    """Return the request for the `output` of marked `rows`, int64 [b, L]."""
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(_head(name, version, output, *rows.shape))
    request.id = REQUEST_ID.get()
    request.raw_input_contents.append(rows.tobytes())
    return request


@functools.lru_cache(maxsize=1024)
def _head(name: str, version: int, output: str, rows: int, length: int) -> service_pb2.ModelInferRequest:
    """Return a request without id and content. It is shared: copy it before adding to it."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version))
    request.inputs.add(name=INPUT, datatype="INT64", shape=[rows, length])
    request.outputs.add(name=output)
    return request


def image_request(name: str, version: int, pixels: NDArray[np.uint8]) -> service_pb2.ModelInferRequest:
    """Return the request for `pixels`, uint8 [b, H, W, 3]."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version), id=REQUEST_ID.get())
    request.inputs.add(name=IMAGE_INPUT, datatype="UINT8", shape=pixels.shape)
    request.outputs.add(name=IMAGE_OUTPUT)
    request.raw_input_contents.append(pixels.tobytes())
    return request


def beside_noise(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (uint8 [b, H, W, 3]) with as many of noise, uint8 [2 b, H, W, 3], in new bytes."""
    noise = np.random.default_rng().integers(0, 256, image.shape, dtype=np.uint8)
    return np.concatenate([image, noise])


def embeddings(response: service_pb2.ModelInferResponse, *leading: int) -> NDArray[np.float32] | None:
    """Return the only output, float32 [*leading, D], or None if the answer is empty.

    Raises:
        TokensNotServed: The answer has a vector for each row, where one for each token was requested.
        WrongAnswer: The answer has another shape than requested.
        NotFinite: A vector holds NaN or inf, which NVIDIA's backend returns as it is.
    """
    if not response.raw_output_contents:
        return None
    if len(response.outputs) != 1:
        raise WrongAnswer("Triton answered other outputs than the request asked for")
    shape = tuple(response.outputs[0].shape)
    if shape[:-1] == leading[:-1] and len(leading) == 2:
        raise TokensNotServed("Triton answered one vector for each row, none for its tokens")
    if shape[:-1] != leading:
        raise WrongAnswer("Triton answered another shape than the request asked for")
    content = response.raw_output_contents[0]
    if 4 * math.prod(shape) != len(content):
        raise WrongAnswer("Triton answered a vector that does not fit its shape")
    vectors: NDArray[np.float32] = np.frombuffer(content, np.float32).reshape(shape)
    if (row := first_not_finite(vectors)) is not None:
        raise NotFinite(response.model_name, row)
    return vectors


async def shielded_call(
    method: Any,  # noqa: ANN401 - generated, untyped
    request: Any,  # noqa: ANN401 - as above
    timeout: float,
    watcher: CallObserver | None = None,
) -> Any:  # noqa: ANN401 - as above
    """Return the answer to `method(request)`. If the caller is cancelled or out of time, the call goes on.

    Triton 2.51 can crash when a call is cancelled at the moment of its answer, and the end of a gRPC deadline
    is a cancellation too (triton-inference-server/server, issues 7368 and 8034). Here it ended by signal 11
    once in some dozens of requests with a bad image, whose other images were being computed.

    Args:
        method: GRPC method.
        request: Its request.
        timeout: Time that the caller waits, in seconds.
        watcher: Observer of the call.

    Raises:
        TritonTimeout: There is no answer within `timeout`.
    """
    loop = asyncio.get_running_loop()
    call = method(request, timeout=timeout + LATE_SECONDS)
    # The caller awaits this future and not the call, because its cancellation would cancel the call too.
    ended = loop.create_future()

    def end(_: object) -> None:
        if watcher is not None:
            watcher.ended()
        if not ended.done():
            ended.set_result(None)

    if watcher is not None:
        watcher.began()
    call.add_done_callback(end)
    late = loop.call_later(timeout, _out_of_time, ended)
    try:
        await ended
    finally:
        late.cancel()
    return await call


def _out_of_time(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_exception(TritonTimeout("Triton did not answer in time"))
