"""Translation of gRPC's errors into those of this package; it is done nowhere else."""

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
# The model was loaded again with another max_batch_size. The caller's knowledge is outdated, as it is for a
# model that is gone.
_OUTDATED = re.compile("batch-size must be <=")
_QUEUE_FULL = re.compile("Exceeds maximum queue size")
_EXPIRED = re.compile("Request timeout expired")
_STUB_DIED = re.compile("Stub process .* is not healthy")
# The text of the project's own backend, see `backends/onnxruntime/model.py`.
_NOT_FINITE = re.compile(r"vector of row (\d+) is not finite")
_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


async def translated(
    error: grpc.aio.AioRpcError, name: str, is_ready: Callable[[float], Awaitable[bool]]
) -> TritonError:
    """Return this package's error for an error of gRPC in a call.

    The code alone is ambiguous: UNAVAILABLE means both "this version is not ready" and "nobody answers", and
    an unknown model is NOT_FOUND or INVALID_ARGUMENT.

    Args:
        error: GRPC's error.
        name: Name in Triton of the model that the call was about.
        is_ready: Returns whether Triton answers within the given number of seconds.
    """
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TritonTimeout("Triton did not answer in time")
    # Both come from Triton's queue, and are UNAVAILABLE too.
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
    """Return the error for a cancelled call: the caller is cancelled, or the client was closed meanwhile."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return TritonUnavailable("Triton is not available")
