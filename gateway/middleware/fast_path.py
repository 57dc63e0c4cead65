"""A fast path for the embedding routes, ahead of FastAPI's routing and middleware.

These cost more than all other work of the gateway on a request. FastAPI has the same routes (`gateway/api/`):
for the documentation, for large bodies and for everything except a plain POST.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.dialects import openai
from gateway.api.embedding import accepted, infer, infer_image, infer_text
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.api.error_responses import path_of, response_to
from gateway.api.request_body import SMALL, parse
from gateway.api.responses import Answer
from gateway.api.services import Services
from gateway.inference.disconnect import CALLER, DisconnectWatcher

PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""Exceptions that end a task without being a failure of it."""


class FastRoute(NamedTuple):
    """A route of the fast path.

    Attributes:
        path: the metrics read it as a label, as they do with FastAPI's routes.
        schema: the schema of the body.
        answer: takes the services, the body, the start of the request (seconds of `time.perf_counter`) and
            the media type of the answer.
    """

    path: str
    schema: type[BaseModel]
    answer: Callable[[Services, Any, float, str], Awaitable[Answer]]


ROUTES = {
    route.path: route
    for route in (
        FastRoute("/infer", InferRequest, infer),
        FastRoute("/infer_text", InferTextRequest, infer_text),
        FastRoute("/infer_image", InferImageRequest, infer_image),
        FastRoute("/v1/embeddings", openai.EmbeddingsRequest, openai.embeddings),
    )
}


BASES = ("/v1/", "/v2/", "/tei/", "/weaviate/")
STRAIGHTENED = frozenset(
    "/infer /infer_text /infer_image /embed /embed_text /embed_image /model_embedding_size /health "
    "/loaded_models /rerank /predict /score".split()
)
"""Paths on which surplus slashes are removed, like on all paths below BASES."""

_SLASHES = re.compile("//+")


class FastPath:
    """ASGI layer that answers ROUTES and passes everything else on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = DisconnectWatcher(receive)
        CALLER.set(caller)
        try:
            await self._handle(caller, scope, receive, send)
        except asyncio.CancelledError:
            if not caller.gone:
                raise
            caller.accept_end()
            await response_to(ClientDisconnect(), scope)(scope, receive, send)
        finally:
            caller.end()

    async def _handle(self, caller: DisconnectWatcher, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["method"] == "POST"
        route = ROUTES.get(scope["path"]) if is_post else None
        if route is None and straighten(scope) and is_post:
            route = ROUTES.get(scope["path"])
        if route is None or not is_small(scope["headers"]):
            send = caller.until_answered(send)
            if scope["method"] == "HEAD":
                await self._answer_head(scope, receive, send)
            else:
                await self._routed(scope, receive, send)
            return
        scope["route"] = route
        try:
            start = time.perf_counter()
            request = parse(route.schema, await read(receive))
            answer = await route.answer(scope["app"].state.services, request, start, accepted(scope))
        except PASSED_ON:
            raise
        except BaseException as error:  # noqa: BLE001 - each becomes an answer, as FastAPI's handlers make it
            caller.close()
            await response_to(error, scope)(scope, receive, send)
            return
        caller.close()
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as to GET, with an empty body; its message tells the server that the answer has ended."""

        async def send_bare(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        asked = {**scope, "method": "GET"}
        try:
            await self._routed(asked, receive, send_bare)
        finally:
            # The metrics read the route from the outer scope.
            if "route" in asked:
                scope["route"] = asked["route"]

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let FastAPI answer. Its handlers catch only `Exception`; a panic in a Rust library is not one."""
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except (Exception, *PASSED_ON):
            raise
        except BaseException as error:
            if begun:
                raise
            await response_to(error, scope)(scope, receive, send)


def straighten(scope: Scope) -> bool:
    """Remove surplus slashes, which come from base URLs that end with one; return whether there were any.

    This applies only to routes that embed or read: `//load_` must not get past a proxy that forbids `/load_`.
    """
    path = path_of(scope)
    plain = _SLASHES.sub("/", path).rstrip("/")
    if plain == path or not (plain in STRAIGHTENED or plain.startswith(BASES)):
        return False
    scope["path"] = scope["path"].removesuffix(path) + plain
    return True


def is_small(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a request declares a small body; large ones must wait for a share of memory."""
    for name, value in headers:
        if name == b"content-length":
            return value.isdigit() and int(value) <= SMALL
    return False


async def read(receive: Receive) -> bytes:
    """Read the body of a request.

    Raises:
        ClientDisconnect: the client disconnected before it had sent the whole body.
    """
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        if not message.get("more_body", False):
            break
        parts.append(message["body"])
    last: bytes = message.get("body", b"")
    return b"".join((*parts, last)) if parts else last
