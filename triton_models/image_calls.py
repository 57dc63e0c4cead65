"""Requests with images, and calls to Triton that nobody may take back."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from triton_models.config import IMAGE_INPUT, IMAGE_OUTPUT


def image_request(name: str, version: int, pixels: NDArray[np.uint8]) -> service_pb2.ModelInferRequest:
    """A whole request: `pixels` is uint8 [b, H, W, 3]."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version))
    request.inputs.add(name=IMAGE_INPUT, datatype="UINT8", shape=pixels.shape)
    request.outputs.add(name=IMAGE_OUTPUT)
    request.raw_input_contents.append(pixels.tobytes())
    return request


async def uncancelled(call: Awaitable[Any]) -> Any:  # noqa: ANN401 - generated, untyped
    """The answer to a call; a caller that is cancelled leaves it running.

    One bad image ends the other images of its request, whose calls may be under way; and Triton 2.51 can
    crash when a call is cancelled in the moment of its answer (triton-inference-server/server, issues 7368
    and 8034). Seen here: signal 11, once in some dozens of requests with a bad image.
    """
    running = asyncio.ensure_future(call)
    running.add_done_callback(_heard)
    return await asyncio.shield(running)


def _heard(call: "asyncio.Future[Any]") -> None:
    """Keep asyncio from reporting the error of a call that nobody waits for."""
    if not call.cancelled():
        call.exception()
