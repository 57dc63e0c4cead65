"""The store's gRPC server. It parses requests, but sends answers as bytes without parsing them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from inference_store.answers import message_with_id
from inference_store.errors import StoreError
from inference_store.protocol import INFER, METHODS, SERVICE, STREAM, with_id
from inference_store.record import Outcome
from inference_store.store import Store
from inference_store.streams import Ended, Stream
from inference_store.target import passed_on

STORE_METADATA = "inference-store"
"""The trailing metadata of ServerLive, with the mode. A client that probes models can stop when it sees this,
because probes would be recorded."""

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler = Callable[[bytes, Context], Awaitable[bytes]]


def grpc_server(
    store: Store, streams: "Streams", address: str, max_message_bytes: int
) -> tuple[grpc.aio.Server, int]:
    """Return a server that is not yet started, and its port.

    Raises:
        OSError: The server cannot listen on the address.
    """
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Otherwise two stores on one port would silently share the requests.
            ("grpc.so_reuseport", 0),
        )
    )
    handlers = {name: grpc.unary_unary_rpc_method_handler(_call(store, name)) for name in METHODS}
    handlers[STREAM] = grpc.stream_stream_rpc_method_handler(streams.answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}") from error
    return server, port


def _call(store: Store, name: str) -> Handler:
    parse = METHODS[name].request.FromString
    answer = store.infer if name == INFER else partial(store.call, name)

    async def call(data: bytes, context: Context) -> bytes:
        try:
            request = parse(data)
            outcome = await answer(request, passed_on(context.invocation_metadata()))
        except (StoreError, DecodeError) as error:
            await _abort(context, error)
        request_id = request.id if name == INFER else ""
        if not outcome.good:
            await _refuse(context, outcome, request_id)
        if name == "ServerLive":
            context.set_trailing_metadata(((STORE_METADATA, str(store.mode)),))
        return with_id(outcome.answers[0], request_id)

    return call


class Streams:
    """The open streams of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: set[Stream] = set()

    async def answer(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer a ModelStreamInfer."""
        stream = Stream(self._store, requests, passed_on(context.invocation_metadata()))
        self._open.add(stream)
        try:
            async for answer in stream.answers():
                yield answer
        except StoreError as error:
            await _abort(context, error)
        except Ended as error:
            await _refuse(context, error.outcome, "")
        finally:
            self._open.discard(stream)

    def stop(self) -> None:
        """Let each stream end once all its requests are answered."""
        for stream in self._open:
            stream.stop()


async def _refuse(context: Context, outcome: Outcome, request_id: str) -> None:
    await context.abort(grpc.StatusCode[outcome.code], message_with_id(outcome.message, request_id))


async def _abort(context: Context, error: StoreError | DecodeError) -> None:
    if isinstance(error, StoreError):
        await context.abort(grpc.StatusCode[error.code], str(error))
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of the protocol")
