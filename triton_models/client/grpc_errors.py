"""What a failure of gRPC means: the one place where its errors become ours."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from triton_models.client.errors import (
    InferenceRejected,
    ModelNotReady,
    NotFinite,
    TritonError,
    TritonOverloaded,
    TritonTimeout,
    TritonUnavailable,
)

_PROBE_SECONDS = 1.0
_NOT_READY = re.compile("unknown model|not at ready state")
# The model was loaded with another max_batch_size: what is known of it is outdated, as of one that is gone.
_OUTDATED = re.compile("batch-size must be <=")
_QUEUE_FULL = re.compile("Exceeds maximum queue size")
_EXPIRED = re.compile("Request timeout expired")
_STUB_DIED = re.compile("Stub process .* is not healthy")
# Of the project's own backend, see `backends/onnxruntime/model.py`.
_NOT_FINITE = re.compile(r"vector of row (\d+) is not finite")
_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


async def translated(
    error: grpc.aio.AioRpcError, name: str, is_ready: Callable[[float], Awaitable[bool]]
) -> TritonError:
    """The error of ours for one of gRPC, met in a call about the model `name`.

    is_ready: whether Triton answers within so many seconds.

    The code alone does not tell: UNAVAILABLE is both "this version is not ready" and "nobody
    answers", an unknown model is NOT_FOUND or INVALID_ARGUMENT.
    """
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TritonTimeout("Triton did not answer in time")
    # Both of Triton's queue, and UNAVAILABLE too.
    if _QUEUE_FULL.search(details):
        return TritonOverloaded(f"the queue of {name} is full")
    if _EXPIRED.search(details):
        return TritonTimeout("the request waited too long in Triton")
    if found := _NOT_FINITE.search(details):
        return NotFinite(name, int(found[1]))
    if code == grpc.StatusCode.NOT_FOUND or _NOT_READY.search(details) or _OUTDATED.search(details):
        return ModelNotReady(f"{name} is not loaded")
    reason = _REQUEST_ID.sub("", details.splitlines()[0] if details else code.name)
    if code in _NOBODY or _STUB_DIED.search(details):
        return TritonUnavailable(f"Triton is not available: {reason}")
    if code == grpc.StatusCode.INTERNAL and not await is_ready(_PROBE_SECONDS):
        return TritonUnavailable("Triton is not available")
    return InferenceRejected(f"Triton refused the request to {name}: {reason}")


def closed_or_cancelled() -> BaseException:
    """What a cancelled call means: the caller is cancelled, or the client was closed under the call."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return TritonUnavailable("Triton is not available")
