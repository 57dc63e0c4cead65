"""The embedding routes, ahead of the routing and middleware of FastAPI, which cost more than all the rest.

FastAPI has the same routes (`routes.py`): for the documentation, for large bodies, for all but a plain POST.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import answers, schemas
from gateway.answers import Answer
from gateway.bodies import SMALL
from gateway.callers import CALLER, Caller
from gateway.dialects import openai
from gateway.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.errors import InvalidInput, TooLarge, path_of, response_to
from gateway.fields import tell_as_asked
from gateway.forms import Vectors
from gateway.multimodal import both
from gateway.references import Reference
from gateway.services import Services

PASSED_ON = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a task, and is no failure of it."""


async def infer(services: Services, body: InferRequest, start: float, media: str) -> Answer:
    """The answer to a body of `POST /infer` that came at `start`, of `time.perf_counter`.

    media: of the answer, see `gateway/answers.py`.
    """
    form = body.form()
    try:
        if body.image is None:
            texts, images = await embed_text(services, body, body.text or ""), None
        elif body.text is None:
            texts, images = None, await embed_images(services, body, body.image)
        else:
            answers.require_json(media)
            texts, images = await both(
                partial(embed_text, services, body, body.text),
                partial(embed_images, services, body, body.image),
            )
        return answers.written(start, form, media, {"text_embeddings": texts, "image_embeddings": images})
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"text": body.text, "image": body.image})
        raise


async def infer_text(services: Services, body: InferTextRequest, start: float, media: str) -> Answer:
    """The answer to a body of `POST /infer_text`."""
    form = body.form()
    try:
        vectors = await embed_text(services, body, body.text)
        return answers.written(start, form, media, {"embedding": vectors})
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"text": body.text})
        raise


async def infer_image(services: Services, body: InferImageRequest, start: float, media: str) -> Answer:
    """The answer to a body of `POST /infer_image`."""
    form = body.form()
    try:
        vectors = await embed_images(services, body, body.image)
        return answers.written(start, form, media, {"embedding": vectors})
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"image": body.image})
        raise


async def embed_text(
    services: Services, body: InferRequest | InferTextRequest, text: str | list[str]
) -> Vectors:
    """Vectors of the body's texts, float32 [n, D]."""
    texts = [text] if isinstance(text, str) else text
    embedded = await services.embedder.embed(
        body.reference(),
        texts,
        normalize=body.normalize is True,
        options=body.text_options(),
        timeout_ms=body.timeout_ms,
    )
    return embedded.vectors


async def embed_images(
    services: Services, body: InferRequest | InferImageRequest, image: str | list[str]
) -> Vectors:
    """Vectors of the body's images, float32 [n, D]."""
    images = [image] if isinstance(image, str) else image
    return await services.image_embedder.embed(
        body.reference(), images, normalize=body.normalize is True, timeout_ms=body.timeout_ms
    )


def asked(body: InferRequest | InferTextRequest) -> tuple[Reference, int] | None:
    """The model and the number of texts that a body asks for; None where it asks for images."""
    if body.text is None or (isinstance(body, InferRequest) and body.image is not None):
        return None
    return body.reference(), 1 if isinstance(body.text, str) else len(body.text)


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
            request = schemas.parse(route.schema, await read(receive))
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


def accepted(scope: Scope) -> str:
    """The media type that a request asks for."""
    for name, value in scope["headers"]:
        if name == b"accept" and value != b"*/*":
            return answers.media_type(value.decode("latin-1"))
    return answers.JSON


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
