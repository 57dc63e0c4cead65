"""Who may do what, and how much at once: keys, rate, limits on URL, headers and body. One layer, for speed.

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
"""Answered without a key and at any rate: a load balancer has no key, and they tell nothing."""

MAX_URL_BYTES = 8192
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 << 10

_NO_KEY = "send a valid key as 'Authorization: Bearer KEY'"


class Caller(NamedTuple):
    """Who asks: `key` is a digest of the key, empty where there is no valid one."""

    key: bytes
    may_administer: bool


class Keys:
    """The operator's keys.

    api_keys: for embedding and looking. admin_api_keys: for that and for changing models; where there are
    none, api_keys do both. Without api_keys embedding is open to anybody.
    """

    def __init__(self, api_keys: Iterable[str], admin_api_keys: Iterable[str]) -> None:
        self._secret = secrets.token_bytes(32)
        embedding, administering = list(api_keys), list(admin_api_keys)
        self._callers = {
            digest: Caller(digest, may_administer)
            for keys, may_administer in ((embedding, not administering), (administering, True))
            for digest in map(self._digest, (key.encode() for key in keys))
        }
        self._needed_to_embed = bool(embedding)
        self._anybody = Caller(b"", may_administer=not self._callers)

    def caller(self, authorization: bytes) -> Caller:
        """Who sends this `Authorization` header, b"" for none."""
        if not authorization or not self._callers:
            return self._anybody
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return self._anybody
        return self._callers.get(self._digest(key.strip()), self._anybody)

    def let_in(self, caller: Caller) -> bool:
        """Whether a caller may embed."""
        return bool(caller.key) or not self._needed_to_embed

    def _digest(self, key: bytes) -> bytes:
        # Keys are looked up by a digest under a secret of this process. It takes the same time for right and
        # wrong ones, and nobody can choose or foresee it, so that the time of the look-up, however it
        # compares, tells nothing of any key: neither its beginning nor its length, nor how many there are.
        return hashlib.blake2b(key, key=self._secret, digest_size=32).digest()


class Guard:
    """ASGI middleware: refuses what may not come in, before anything is read of it.

    rate: None for no limit.
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

    def _admitted(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        caller = self._keys.caller(headers.get(b"authorization", b""))
        if path_of(scope) in OPEN_ROUTES:
            return caller
        if self._rate is not None:
            self._take_turn(self._rate, caller, scope)
        if not self._keys.let_in(caller):
            raise Unauthorized(_NO_KEY)
        return caller

    def _take_turn(self, rate: RateLimit, caller: Caller, scope: Scope) -> None:
        if (wait := rate.take(caller.key or network_of(scope["client"]), time.monotonic())) > 0:
            raise RateLimited(
                f"more than {rate.per_second:g} requests a second; send fewer, with several inputs each",
                max(1, math.ceil(wait)),
            )

    def _counted(self, receive: Receive) -> Receive:
        """Counts a body that comes without a length."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                # FastAPI passes on no other exception out of the reading of a body.
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes; send fewer or smaller inputs"


def check_size(scope: Scope) -> None:
    """Refuse a URL or headers beyond what any client needs.

    Raises:
        UrlTooLong, HeadersTooLarge: they are.
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
