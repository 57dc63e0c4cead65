"""Requests to Triton and their answers, and calls that nobody may take back."""

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
"""Of the request that is being answered; "" for none. Triton's log and errors name it, its cache does not."""

LATE_SECONDS = 30.0
"""After the caller's own limit, when a call to Triton ends too."""


class Watcher(Protocol):
    """Is told when calls begin, and when they have ended in Triton, which may be long after their caller."""

    def began(self) -> None:
        """One begins."""

    def ended(self) -> None:
        """One has ended."""


class Queueing(NamedTuple):
    """How Triton's queue treats a call, and who is told when it has left.

    expires: where the configuration bounds the queue, the request is dropped there unless it is begun before
    the caller's limit. Not in the key of Triton's response cache, and keeps no requests from being merged.
    """

    expires: bool = False
    watcher: Watcher | None = None

    def apply(self, request: service_pb2.ModelInferRequest, timeout: float) -> None:
        """Write it into a request whose caller waits `timeout` seconds."""
        if self.expires:
            request.parameters["timeout"].int64_param = max(1, int(timeout * 1e6))


AS_CONFIGURED = Queueing()
"""As the model's configuration says."""


Asked = tuple[service_pb2.ModelInferRequest, tuple[int, ...]]
"""A request, and the dimensions of its answer before the last one."""


def text_requests(name: str, version: int, rows: NDArray[np.int64], *, tokens: bool) -> Iterator[Asked]:
    """The request for vectors of `rows` (int64 [b, L]), and what to send where it is answered with nothing.

    Triton caches failures: a request that failed once is answered with nothing ever after. The second has
    bytes of its own, the third a random row more, so new bytes each time. tokens: of each token.
    """
    marked = mark_rows(rows)
    leading = marked.shape if tokens else marked.shape[:1]
    if tokens:
        marked = mark_wants_tokens(marked)
    yield text_request(name, version, marked), leading
    yield text_request(name, version, mark_past_cache(marked)), leading
    more = mark_rows(beside_random(rows))
    if tokens:
        more = mark_wants_tokens(more)
    yield text_request(name, version, more), (len(more), *leading[1:])


def image_requests(name: str, version: int, pixels: NDArray[np.uint8]) -> Iterator[Asked]:
    """The same for images uint8 [b, H, W, 3]; the second one has an image of noise more."""
    yield image_request(name, version, pixels), pixels.shape[:1]
    more = beside_noise(pixels)
    yield image_request(name, version, more), more.shape[:1]


def text_request(name: str, version: int, rows: NDArray[np.int64]) -> service_pb2.ModelInferRequest:
    """A whole request: `rows` is int64 [b, L], marked."""
    request = service_pb2.ModelInferRequest()
    request.CopyFrom(_head(name, version, *rows.shape))
    request.id = REQUEST_ID.get()
    request.raw_input_contents.append(rows.tobytes())
    return request


@functools.lru_cache(maxsize=1024)
def _head(name: str, version: int, rows: int, length: int) -> service_pb2.ModelInferRequest:
    """All of a request but its content. Shared: copy before adding to it."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version))
    request.inputs.add(name=INPUT, datatype="INT64", shape=[rows, length])
    request.outputs.add(name=OUTPUT)
    return request


def image_request(name: str, version: int, pixels: NDArray[np.uint8]) -> service_pb2.ModelInferRequest:
    """A whole request: `pixels` is uint8 [b, H, W, 3]."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version), id=REQUEST_ID.get())
    request.inputs.add(name=IMAGE_INPUT, datatype="UINT8", shape=pixels.shape)
    request.outputs.add(name=IMAGE_OUTPUT)
    request.raw_input_contents.append(pixels.tobytes())
    return request


def beside_noise(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image and one of noise, uint8 [2, H, W, 3], in bytes that no request had."""
    noise = np.random.default_rng().integers(0, 256, image.shape, dtype=np.uint8)
    return np.concatenate([image, noise])


def embeddings(response: service_pb2.ModelInferResponse, *leading: int) -> NDArray[np.float32] | None:
    """The one output, float32 [*leading, D]; None where there is none.

    Raises:
        TokensNotServed: a vector for each row where one for each token was asked for.
        WrongAnswer: another shape than was asked for.
        NotFinite: a vector holds NaN or inf, as NVIDIA's backend answers them.

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


async def uncancelled(
    method: Any,  # noqa: ANN401 - generated, untyped
    request: Any,  # noqa: ANN401 - as above
    timeout: float,
    watcher: Watcher | None = None,
) -> Any:  # noqa: ANN401 - as above
    """The answer to `method(request)`. A caller that is cancelled or out of time leaves the call running.

    Triton 2.51 can crash when a call is cancelled in the moment of its answer, and the end of a gRPC deadline
    is a cancellation too (triton-inference-server/server, issues 7368 and 8034). Seen here: signal 11, once
    in some dozens of requests with a bad image, whose other images were under way. timeout: in seconds.

    Raises:
        TritonTimeout: no answer in that time.
    """
    loop = asyncio.get_running_loop()
    call = method(request, timeout=timeout + LATE_SECONDS)
    # Awaited instead of the call: a caller that is cancelled while it awaits the call itself cancels it.
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
