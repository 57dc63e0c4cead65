"""Connections to Triton, with TLS and headers where it requires them.

Source of the headers' names: Triton's "limited endpoint access", `--grpc-restricted-protocol`.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

from triton_models.client.requests import shielded_call

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default, channels with equal arguments share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A restarted Triton is then found within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.enable_http_proxy", 0),
]


InferCall = Callable[..., Awaitable[Any]]
"""Makes one inference; called as `shielded_call` is."""


class ChannelOptions(NamedTuple):
    """The options of connections to a Triton and of calls to it.

    Attributes:
        root_certificates: Trusted certificates in PEM; None for a connection without TLS.
        private_key: This client's key in PEM, where that Triton asks for a certificate.
        certificate: This client's certificate in PEM.
        headers: Sent with every call; names in lower case.
        infer_call: Makes each inference. Tracing gives one that records a span as well.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    infer_call: InferCall = shielded_call

    def channel(self, url: str) -> grpc.aio.Channel:
        """Return a connection to `url`."""
        if self.root_certificates is None:
            return grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate)
        return grpc.aio.secure_channel(url, credentials, options=_CHANNEL_OPTIONS)

    def stub(self, channel: grpc.aio.Channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
        """Return the methods of a connection; they send the headers."""
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        if self.headers:
            for name, method in vars(stub).items():
                setattr(stub, name, functools.partial(method, metadata=self.headers))
        return stub


OPEN = ChannelOptions()
"""The options for a Triton that requires neither TLS nor headers."""
