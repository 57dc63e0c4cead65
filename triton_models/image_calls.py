"""Requests with images, and calls to Triton that nobody may take back."""

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from triton_models.config import IMAGE_INPUT, IMAGE_OUTPUT
from triton_models.errors import TritonTimeout

LATE_SECONDS = 30.0
"""After the caller's own limit, when a call to Triton ends too."""


def image_request(name: str, version: int, pixels: NDArray[np.uint8]) -> service_pb2.ModelInferRequest:
    """A whole request: `pixels` is uint8 [b, H, W, 3]."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version))
    request.inputs.add(name=IMAGE_INPUT, datatype="UINT8", shape=pixels.shape)
    request.outputs.add(name=IMAGE_OUTPUT)
    request.raw_input_contents.append(pixels.tobytes())
    return request


async def uncancelled(method: Any, request: Any, timeout: float) -> Any:  # noqa: ANN401 - generated, untyped
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
        if not ended.done():
            ended.set_result(None)

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
