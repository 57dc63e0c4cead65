"""The embedding routes, ahead of the routing and middleware of FastAPI, which cost more than all the rest.

FastAPI has the same routes (`routes.py`): for the documentation, for large bodies, for all but a plain POST.
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
from gateway.api.embedding import accepted, asked, infer, infer_image, infer_text
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.api.error_responses import path_of, response_to
from gateway.api.request_body import SMALL, parse
from gateway.api.responses import Answer
from gateway.api.services import Services
from gateway.inference.disconnect import CALLER, Caller
from gateway.model_id import Reference

PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a task, and is no failure of it."""


class HotRoute(NamedTuple):
    """A route; `path` is read by the metrics, as of FastAPI's routes. asked: for `shedding.py`."""

    path: str
    schema: type[BaseModel]
    answer: Callable[[Services, Any, float, str], Awaitable[Answer]]
    asked: Callable[[Any], tuple[Reference, int] | None]


ROUTES = {
    route.path: route
    for route in (
        HotRoute("/infer", InferRequest, infer, asked),
        HotRoute("/infer_text", InferTextRequest, infer_text, asked),
        HotRoute("/infer_image", InferImageRequest, infer_image, lambda _: None),
        HotRoute("/v1/embeddings", openai.EmbeddingsRequest, openai.embeddings, openai.asked),
    )
}


BASES = ("/v1/", "/tei/", "/weaviate/")
STRAIGHTENED = frozenset(
    "/infer /infer_text /infer_image /embed /embed_text /embed_image /model_embedding_size /health "
    "/loaded_models".split()
)
"""Paths below and at which slashes too many are no matter."""

_SLASHES = re.compile("//+")


class Hot:
    """ASGI layer that answers ROUTES and hands on everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = Caller(receive)
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

    async def _handle(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
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
        """Answer as to GET, without the body; the server still has to know that none is to come."""

        async def send_bare(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        asked = {**scope, "method": "GET"}
        try:
            await self._routed(asked, receive, send_bare)
        finally:
            # For the metrics.
            if "route" in asked:
                scope["route"] = asked["route"]

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By FastAPI, whose handlers know `Exception` only: a library in Rust that panics raises none."""
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
    """Take out of a path what a slash at the end of a base URL has put there; whether there was any.

    Only where it embeds or looks: a proxy that forbids `/load_` must not be passed by `//load_`.
    """
    path = path_of(scope)
    plain = _SLASHES.sub("/", path).rstrip("/")
    if plain == path or not (plain in STRAIGHTENED or plain.startswith(BASES)):
        return False
    scope["path"] = scope["path"].removesuffix(path) + plain
    return True


def is_small(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request says that its body is small; the memory of large ones, of images, is shared out."""
    for name, value in headers:
        if name == b"content-length":
            return value.isdigit() and int(value) <= SMALL
    return False


async def read(receive: Receive) -> bytes:
    """The body of a request.

    Raises:
        ClientDisconnect: the client went away before it had sent all of it.
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
