"""The server behind the store: one connection, with requests and answers as bytes."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio

from inference_store.errors import StoreError, TooSlow, Unavailable
from inference_store.protocol import SERVICE, STREAM
from inference_store.record import Outcome

Metadata = tuple[tuple[str, str | bytes], ...]

_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A restarted server is then found within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
_OWN_HEADERS = ("user-agent", "content-type", "te")


class Target:
    """The server at `address`, "host:port"; a call may take `timeout` seconds."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self._timeout = timeout
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._stream = self._channel.stream_stream(
            f"/{SERVICE}/{STREAM}", request_serializer=None, response_deserializer=None
        )

    async def ask(self, method: str, request: bytes, metadata: Metadata) -> Outcome:
        """Return the server's answer, which may be an error of its own.

        Raises:
            Unavailable, TooSlow: The server does not answer, which is temporary and not the request's fault.
        """
        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(
                f"/{SERVICE}/{method}", request_serializer=None, response_deserializer=None
            )
        try:
            answer = await self._calls[method](request, timeout=self._timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return self.outcome(error)
        return Outcome((answer,))

    def stream(self, requests: AsyncIterator[bytes], metadata: Metadata) -> AsyncIterator[bytes]:
        """Make a ModelStreamInfer, without a timeout because streams may be long."""
        return self._stream(requests, metadata=metadata)  # type: ignore[return-value] # a call is such an iterator

    def outcome(self, error: grpc.aio.AioRpcError) -> Outcome:
        """Return an error of gRPC as the server's answer.

        Raises:
            Unavailable, TooSlow: The error is not an answer of the server.
        """
        raised = self._passing(error)
        if raised is not None:
            raise raised from error
        return Outcome((), error.code().name, error.details() or "")

    def _passing(self, error: grpc.aio.AioRpcError) -> StoreError | None:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return TooSlow(f"the target {self.address} did not answer within {self._timeout:g} s")
        if error.code() in _PASSING:
            return Unavailable(f"the target {self.address} is not available: {error.details()}")
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


def passed_on(metadata: Iterable[Any] | None) -> Metadata:
    """Return a client's headers without those of its own connection; headers are never recorded."""
    return tuple(
        (name, value)
        for name, value in metadata or ()
        if name not in _OWN_HEADERS and not name.startswith(("grpc-", ":"))
    )
