"""What tests ask: the same calls through every kind of client, answers as comparable values."""

import asyncio
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as aioclient
import tritonclient.http as httpclient
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

FLOATS = np.array([0.1, -2.5, 3e38], np.float32)
NUMBERS = np.array([1, 2**62], np.int64)
TEXTS = np.array(["a", "zwölf".encode(), b"\x00\xff"], dtype=np.object_)
FLAGS = np.array([True, False])
HALVES = np.array([0.5, 1.5], np.float16)

REQUESTS: dict[str, dict[str, np.ndarray[Any, Any]]] = {
    "floats": {"FLOATS": FLOATS},
    "all": {"FLOATS": FLOATS, "NUMBERS": NUMBERS, "TEXTS": TEXTS, "FLAGS": FLAGS, "HALVES": HALVES},
    "empty": {"NUMBERS": np.zeros([0], np.int64)},
    "error": {"NUMBERS": np.array([-1], np.int64)},
    "unknown_input": {"NOPE": FLOATS},
}


def inputs(client: Any, arrays: dict[str, Any], **options: Any) -> list[Any]:  # noqa: ANN401 - either client
    made = []
    for name, array in arrays.items():
        tensor = client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **options)
        made.append(tensor)
    return made


def answered(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever a client answers
    """What a call answers, or its error as (status, text)."""
    try:
        found = call()
    except InferenceServerException as error:
        return error.status(), error.message()
    return (
        found if not hasattr(found, "DESCRIPTOR") else MessageToDict(found, preserving_proto_field_name=True)
    )


def arrays(result: Any, names: list[str]) -> dict[str, Any]:  # noqa: ANN401 - either client's
    found = {name: result.as_numpy(name) for name in names}
    return {
        name: None if array is None else (str(array.dtype), array.tolist()) for name, array in found.items()
    }


def sync_infer(url: str, name: str, **options: Any) -> Any:  # noqa: ANN401 - a message or an error
    with grpcclient.InferenceServerClient(url) as client:
        made = inputs(grpcclient, REQUESTS[name])
        return answered(lambda: client.infer("echo", made, **options).get_response())


def aio_infer(url: str, name: str, **options: Any) -> Any:  # noqa: ANN401 - as above
    async def ask() -> Any:  # noqa: ANN401 - as above
        async with aioclient.InferenceServerClient(url) as client:
            return (await client.infer("echo", inputs(grpcclient, REQUESTS[name]), **options)).get_response()

    return answered(lambda: asyncio.run(ask()))


def http_infer(url: str, name: str, *, binary: bool = True, **options: Any) -> Any:  # noqa: ANN401 - as above
    with httpclient.InferenceServerClient(url) as client:
        made = inputs(httpclient, REQUESTS[name], binary_data=binary)
        wanted = [f"{each}_OUT" for each in REQUESTS[name]]
        outputs = [httpclient.InferRequestedOutput(each, binary_data=binary) for each in wanted]

        def ask() -> Any:  # noqa: ANN401 - as above
            result = client.infer("echo", made, outputs=outputs, **options)
            return result.get_response(), arrays(result, wanted)

        return answered(ask)


def stream(
    url: str, requests: list[tuple[str, dict[str, Any], dict[str, Any]]], answers: list[int]
) -> list[Any]:
    """Send (model, arrays, options) on one stream, each after as many answers as the one before has.

    Not all at once: Triton's Python backend sometimes hangs in decoupled requests that overlap.
    """
    received: queue.Queue[Any] = queue.Queue()
    found = []
    with grpcclient.InferenceServerClient(url) as client:
        client.start_stream(lambda result, error: received.put(error or result.get_response()))
        for (model, given, options), number in zip(requests, answers, strict=True):
            client.async_stream_infer(model, inputs(grpcclient, given), **options)
            found += [received.get(timeout=20) for _ in range(number)]
        client.stop_stream()
    shown = [
        {"error": each.message()} if isinstance(each, InferenceServerException) else MessageToDict(each)
        for each in found
    ]
    return shown
