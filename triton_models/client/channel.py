"""How Triton is reached: with TLS and headers where it asks for them.

Source of the headers' names: Triton's "limited endpoint access", `--grpc-restricted-protocol`.
"""

import functools
from typing import NamedTuple

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2_grpc

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Channels of equal arguments share one connection unless told not to.
    ("grpc.use_local_subchannel_pool", 1),
    # A Triton that is started again is found within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.enable_http_proxy", 0),
]


class Access(NamedTuple):
    """What a Triton elsewhere asks for: certificates in PEM, headers of its restricted protocols.

    root_certificates: those trusted; None for a connection without TLS. private_key, certificate: this
    client's, where that Triton wants one. headers: sent with every call, names in small letters.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def channel(self, url: str) -> grpc.aio.Channel:
        """A connection to `url`."""
        if self.root_certificates is None:
            return grpc.aio.insecure_channel(url, options=_CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate)
        return grpc.aio.secure_channel(url, credentials, options=_CHANNEL_OPTIONS)

    def stub(self, channel: grpc.aio.Channel) -> service_pb2_grpc.GRPCInferenceServiceStub:
        """The methods of a connection, which send the headers."""
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        if self.headers:
            for name, method in vars(stub).items():
                setattr(stub, name, functools.partial(method, metadata=self.headers))
        return stub


OPEN = Access()
"""Of a Triton that asks for nothing."""
