"""Access control in one layer, for speed: keys, rate, and limits on URL, headers and body.

Source of the interface: the ASGI specification, version 3.
"""

import hashlib
import math
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_responses import error_response, path_of
from gateway.errors import GatewayError, HeadersTooLarge, RateLimited, TooLarge, Unauthorized, UrlTooLong
from gateway.middleware.content_encoding import unpacked
from gateway.middleware.rate_limit import RateLimit, network_of
from gateway.middleware.request_context import FIELDS

OPEN_ROUTES = frozenset({"/health", "/health/live"})
"""Routes without key and rate limit: load balancers have no key, and the answers reveal nothing."""

MAX_URL_BYTES = 8192
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 << 10

_NO_KEY = "send a valid key as 'Authorization: Bearer KEY'"


class Principal(NamedTuple):
    """The caller of a request.

    Attributes:
        key: a digest of the caller's key; empty if the request has no valid key.
        may_administer: True if the caller may load, unload and delete models.
    """

    key: bytes
    may_administer: bool


class Keys:
    """The keys that the operator has set.

    Args:
        api_keys: permit embedding and reading. Without them, both are open to everyone.
        admin_api_keys: permit changing models too. Without them, `api_keys` permit it.
    """

    def __init__(self, api_keys: Iterable[str], admin_api_keys: Iterable[str]) -> None:
        self._secret = secrets.token_bytes(32)
        embedding, administering = list(api_keys), list(admin_api_keys)
        self._callers = {
            digest: Principal(digest, may_administer)
            for keys, may_administer in ((embedding, not administering), (administering, True))
            for digest in map(self._digest, (key.encode() for key in keys))
        }
        self._needed_to_embed = bool(embedding)
        self._anybody = Principal(b"", may_administer=not self._callers)

    def caller(self, authorization: bytes) -> Principal:
        """Return the caller that sends this `Authorization` header; b"" if the request has none."""
        if not authorization or not self._callers:
            return self._anybody
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return self._anybody
        return self._callers.get(self._digest(key.strip()), self._anybody)

    def let_in(self, caller: Principal) -> bool:
        """Return whether a caller may embed and read."""
        return bool(caller.key) or not self._needed_to_embed

    def _digest(self, key: bytes) -> bytes:
        # Keys are looked up by a digest that depends on a secret of this process. Computing it takes the same
        # time for valid and invalid keys, and nobody can choose or predict it. So the time of the look-up
        # reveals nothing about a key: neither its beginning, nor its length, nor the number of keys.
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()


class AccessMiddleware:
    """ASGI middleware that refuses a request before its body is read.

    Args:
        app: the next layer.
        keys: the operator's keys.
        rate: the limit on each caller's requests; None for no limit.
        max_body_bytes: the limit on a body, also once it is decompressed.
    """

    def __init__(self, app: ASGIApp, keys: Keys, rate: RateLimit | None, max_body_bytes: int) -> None:
        self._app = app
        self._keys = keys
        self._rate = rate
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = scope[FIELDS]
        try:
            check_size(scope)
            scope["caller"] = self._admitted(scope, headers)
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > self._max_body_bytes:
                raise TooLarge(self._too_large())
            if b"transfer-encoding" in headers:
                receive = self._counted(receive)
            if b"content-encoding" in headers:
                receive = unpacked(scope, receive, headers[b"content-encoding"], self._max_body_bytes)
        except GatewayError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admitted(self, scope: Scope, headers: dict[bytes, bytes]) -> Principal:
        caller = self._keys.caller(headers.get(b"authorization", b""))
        if path_of(scope) in OPEN_ROUTES:
            return caller
        if self._rate is not None:
            self._take_turn(self._rate, caller, scope)
        if not self._keys.let_in(caller):
            raise Unauthorized(_NO_KEY)
        return caller

    def _take_turn(self, rate: RateLimit, caller: Principal, scope: Scope) -> None:
        if (wait := rate.take(caller.key or network_of(scope["client"]), time.monotonic())) > 0:
            raise RateLimited(
                f"more than {rate.per_second:g} requests a second; send fewer, with several inputs each",
                max(1, math.ceil(wait)),
            )

    def _counted(self, receive: Receive) -> Receive:
        """Return a `receive` that counts the bytes of a body without a length, and refuses too many."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                # While it reads a body, FastAPI lets no other kind of exception through.
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes; send fewer or smaller inputs"


def check_size(scope: Scope) -> None:
    """Refuse a URL or headers larger than any client needs.

    Raises:
        UrlTooLong: path and query are longer than MAX_URL_BYTES.
        HeadersTooLarge: the headers exceed MAX_HEADERS or MAX_HEADER_BYTES.
    """
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_URL_BYTES:
        raise UrlTooLong(f"the URL is longer than {MAX_URL_BYTES} bytes")
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"the headers are larger than {MAX_HEADER_BYTES} bytes")
