"""The store's HTTP server, `/v2/...`: an ASGI application on the same store as the gRPC server."""

import asyncio
import json
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import uvicorn

from inference_store.answers import message_with_id
from inference_store.errors import Invalid, StoreError
from inference_store.http_infer import HEADER_LENGTH, parse_request, write_response
from inference_store.http_protocol import HttpProtocol
from inference_store.http_routes import INFER_PATH, HttpRefusal, find_call, no_such_path
from inference_store.json_body import INLINE
from inference_store.protocol import METHODS
from inference_store.record import Outcome
from inference_store.store import Store
from inference_store.target import Metadata

Headers = dict[str, str]
Answer = tuple[int, bytes, Headers]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

STATUS = {
    "INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "FAILED_PRECONDITION": 412,
    "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "RESOURCE_EXHAUSTED": 507,
}  # fmt: skip
"""The HTTP status for each gRPC status; it is 500 for all others."""

_JSON = {"content-type": "application/json"}
_ENCODINGS = {"gzip": 31, "deflate": 15}
_NOT_PASSED_ON = {"host", "connection", "content-length", "content-type", "content-encoding", "accept",
                  "accept-encoding", "upgrade", "http2-settings",
                  "user-agent", "transfer-encoding", "expect", "te", HEADER_LENGTH}  # fmt: skip


class HttpApplication:
    """The ASGI application; `max_body_bytes` limits the body of a request, also after decompression."""

    def __init__(self, store: Store, max_body_bytes: int) -> None:
        self._store = store
        self._limit = max_body_bytes

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            _check_framing(scope["http_version"], headers)
            body = self._unpacked(await self._body(receive), headers.get("content-encoding"))
            path = scope["raw_path"].decode("latin-1")
            status, content, more = await self._answer(scope["method"], path, headers, body)
        except HttpRefusal as error:
            status, content, more = _error(error.status, str(error))
            if error.closes:
                more["connection"] = "close"
        except StoreError as error:
            status, content, more = _error(STATUS.get(error.code, 500), str(error))
        content, more = _packed(content, more, headers.get("accept-encoding", ""))
        more["content-length"] = str(len(content))
        head = [(name.encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, verb: str, path: str, headers: Headers, body: bytes) -> Answer:
        metadata = _metadata(headers)
        match = INFER_PATH.fullmatch(path)
        if match is not None:
            if verb != "POST":
                raise no_such_path(405)
            return await self._infer(unquote(match["name"]), match["version"] or "", headers, body, metadata)
        if len(body) <= INLINE:
            call = find_call(verb, path, body)
        else:
            call = await asyncio.to_thread(find_call, verb, path, body)
        outcome = await self._store.call(call.method, call.request, metadata)
        if not outcome.good:
            return _refusal(outcome, "")
        content = call.render(METHODS[call.method].answer.FromString(outcome.answers[0]))
        return (200, b"", {}) if content is None else (200, _dumped(content), dict(_JSON))

    async def _infer(
        self, model: str, version: str, headers: Headers, body: bytes, metadata: Metadata
    ) -> Answer:
        length = headers.get(HEADER_LENGTH)
        if length is not None and not (length.isdigit() and int(length) <= len(body)):
            raise Invalid(f"{HEADER_LENGTH} is {length}, the body has {len(body)} bytes")
        head = None if length is None else int(length)
        if (len(body) if head is None else head) <= INLINE:
            asked = parse_request(model, version, body, head)
        else:
            asked = await asyncio.to_thread(parse_request, model, version, body, head)
        outcome = await self._store.infer(asked.request, metadata)
        if not outcome.good:
            return _refusal(outcome, asked.request.id)
        content, written = write_response(outcome.answers[0], asked.request.id, asked)
        if written is None:
            return 200, content, dict(_JSON)
        return 200, content, {"content-type": "application/octet-stream", HEADER_LENGTH: str(written)}

    async def _body(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > self._limit:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _unpacked(self, body: bytes, encoding: str | None) -> bytes:
        if encoding in (None, "", "identity"):
            return body
        if encoding not in _ENCODINGS:
            raise Invalid(f"content-encoding {encoding} is not known: gzip and deflate are")
        unpacking = zlib.decompressobj(_ENCODINGS[encoding])
        try:
            unpacked = unpacking.decompress(body, self._limit + 1)
        except zlib.error as error:
            raise Invalid(f"the body is no {encoding}: {error}") from error
        if len(unpacked) > self._limit:
            raise self._too_large()
        if not unpacking.eof:
            raise Invalid(f"the body ends inside its {encoding}")
        return unpacked

    def _too_large(self) -> HttpRefusal:
        return HttpRefusal(413, f"the body is over {self._limit} bytes (max_message_bytes)")


class HttpServer(uvicorn.Server):
    """uvicorn beside other servers of one event loop; it leaves signals to the event loop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not handle signals."""
        yield


def http_server(
    store: Store, address: str, max_body_bytes: int, grace: float
) -> tuple[HttpServer, socket.socket]:
    """Return a server that is not yet started, and its socket.

    Raises:
        OSError: The server cannot listen on the address.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name TCP; others wait up to 40 ms for an acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, int(port)))
    except OSError:
        listening.close()
        raise
    listening.listen(2048)
    config = uvicorn.Config(
        HttpApplication(store, max_body_bytes),
        lifespan="off",
        # uvicorn's other parser, which it prefers if it is installed, takes the body of a request with
        # `Upgrade` for the next request.
        http=HttpProtocol,
        ws="none",
        log_config=None,
        # The lower levels have only warnings about requests.
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=int(grace),
    )
    return HttpServer(config), listening


def _check_framing(version: str, headers: Headers) -> None:
    """Refuse a body whose end RFC 9112, section 6.1, lets servers find in more than one way.

    Raises:
        HttpRefusal: A proxy could find another end than h11 does.
    """
    if version not in ("1.0", "1.1"):
        raise HttpRefusal(400, "use HTTP/1.1", closes=True)
    if "transfer-encoding" in headers:
        if version == "1.0":
            raise HttpRefusal(400, "Transfer-Encoding needs HTTP/1.1", closes=True)
        if "content-length" in headers:
            raise HttpRefusal(400, "send Content-Length or Transfer-Encoding, not both", closes=True)


def _metadata(headers: Headers) -> Metadata:
    return tuple(
        (name, value) for name, value in headers.items() if name not in _NOT_PASSED_ON and value.isascii()
    )


def _refusal(outcome: Outcome, request_id: str) -> Answer:
    return _error(STATUS.get(outcome.code, 500), message_with_id(outcome.message, request_id))


def _error(status: int, text: str) -> Answer:
    return status, _dumped({"error": text}), dict(_JSON)


def _dumped(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def _packed(content: bytes, headers: Headers, accepted: str) -> tuple[bytes, Headers]:
    """Compress the body in an encoding that the client accepts, if any."""
    encoding = next((name for name in _ENCODINGS if name in accepted.replace(" ", "").split(",")), None)
    if encoding is None or not content:
        return content, headers
    packing = zlib.compressobj(wbits=_ENCODINGS[encoding])
    return packing.compress(content) + packing.flush(), {**headers, "content-encoding": encoding}
