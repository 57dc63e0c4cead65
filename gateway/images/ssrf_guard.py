"""Makes HTTP connections to permitted addresses only; the check is made at the connection itself.

A name is resolved here, its addresses are checked, and the connection goes to the address that was checked.
So neither DNS rebinding nor a redirect can get past the check. TLS and the `Host` header still use the name.
Proxies from the environment are not used, because they would connect elsewhere.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpcore
import httpx

from gateway.allowed_hosts import Address, AllowedHosts

CONNECT_SECONDS = 5.0
"""Timeout for one address of a host, after which the next is tried."""

_RESOLVERS = 8
_IDLE_SECONDS = 15.0


class AddressForbidden(Exception):
    """None of the host's addresses is permitted."""


class HostUnknown(Exception):
    """The host's name does not resolve."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens a pool's connections, to permitted addresses only."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._plain = httpcore.AnyIOBackend()
        # A pool of its own: a slow DNS server must not occupy the threads that everything else runs in.
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")

    def close(self) -> None:
        """End the threads without waiting for their current work."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first permitted address that answers.

        Raises:
            AddressForbidden: The host has no permitted address.
            HostUnknown: The host's name does not resolve.
            httpcore.ConnectError, httpcore.ConnectTimeout: No permitted address answers.
        """
        permitted = [address for address in await self._resolve(host, port) if self._permits(host, address)]
        if not permitted:
            raise AddressForbidden(host)
        for last, address in enumerate(permitted, 1 - len(permitted)):
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout or CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if last == 0:
                    raise
        raise AssertionError("unreachable")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002 - the protocol's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - the protocol's
    ) -> httpcore.AsyncNetworkStream:
        """Refuse the connection: a file is not a host."""
        raise AddressForbidden(path)

    async def sleep(self, seconds: float) -> None:
        """Sleep; part of httpcore's backend interface."""
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            raise HostUnknown(host) from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def _permits(self, host: str, address: str) -> bool:
        parsed: Address = ipaddress.ip_address(address)
        return self._allowed.permits(host, parsed)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Carries httpx's requests over a pool of guarded connections.

    The alternative, replacing the pool of httpx's own transport, is not safe: if that attribute were renamed,
    nothing would be checked and nothing would fail.
    """

    def __init__(self, allowed: AllowedHosts, connections: int) -> None:
        self._backend = GuardedBackend(allowed)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=self._backend,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            AddressForbidden, HostUnknown: As `GuardedBackend.connect_tcp`.
            httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError: As their names say.
        """
        url = request.url
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Stream(answer.stream),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()
        self._backend.close()


class _Stream(httpx.AsyncByteStream):
    """The body of a response, streamed."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - httpcore types it as any iterable
        self._stream: AsyncIterable[bytes] = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()
