"""The embedding routes, ahead of the routing and middleware of FastAPI, which cost more than all the rest.

FastAPI has the same routes (`routes.py`): for the documentation, for large bodies, for all but a plain POST.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import schemas
from gateway.bodies import SMALL
from gateway.errors import response_to
from gateway.services import Services

JSON_TYPE = (b"content-type", b"application/json")


async def infer(services: Services, body: schemas.InferRequest, start: float) -> bytes:
    """The answer to a body of `POST /infer` that came at `start`, of `time.perf_counter`."""
    if body.image is None:
        texts, images = await embed_text(services, body, body.text or ""), None
    elif body.text is None:
        texts, images = None, await embed_images(services, body, body.image)
    else:
        texts, images = await both(
            embed_text(services, body, body.text), embed_images(services, body, body.image)
        )
    return answer(start, text_embeddings=texts, image_embeddings=images)


async def infer_text(services: Services, body: schemas.InferTextRequest, start: float) -> bytes:
    """The answer to a body of `POST /infer_text`."""
    return answer(start, embedding=await embed_text(services, body, body.text))


async def infer_image(services: Services, body: schemas.InferImageRequest, start: float) -> bytes:
    """The answer to a body of `POST /infer_image`."""
    return answer(start, embedding=await embed_images(services, body, body.image))


async def embed_text(
    services: Services, body: schemas.InferRequest | schemas.InferTextRequest, text: str | list[str]
) -> Any:  # noqa: ANN401 - an array, for orjson
    """Vectors of the body's texts, float32 [n, D]."""
    texts = [text] if isinstance(text, str) else text
    return await services.embedder.embed(body.reference(), texts, normalize=body.normalize)


async def embed_images(
    services: Services, body: schemas.InferRequest | schemas.InferImageRequest, image: str | list[str]
) -> Any:  # noqa: ANN401 - an array, for orjson
    """Vectors of the body's images, float32 [n, D]."""
    images = [image] if isinstance(image, str) else image
    return await services.image_embedder.embed(body.reference(), images, normalize=body.normalize)


async def both(texts: Coroutine[Any, Any, Any], images: Coroutine[Any, Any, Any]) -> tuple[Any, Any]:
    """The two at once; the first failure is raised as it was.

    Images that are still on their way are given up then. Texts are not: they are in Triton, which can crash
    when a call is cancelled under it, and are answered soon.
    """
    text, image = asyncio.create_task(texts), asyncio.create_task(images)
    try:
        await asyncio.wait({text, image}, return_when=asyncio.FIRST_EXCEPTION)
        return await text, await image
    finally:
        if not image.cancel() and not image.cancelled():
            # Where both failed, only the text's error is raised.
            image.exception()


def answer(start: float, **fields: Any) -> bytes:  # noqa: ANN401 - arrays or None, for orjson
    """The JSON of an embedding route; arrays are written without becoming lists."""
    fields["processingTimeMs"] = (time.perf_counter() - start) * 1000
    return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)


class HotRoute(NamedTuple):
    """A route; `path` is read by the metrics, as of FastAPI's routes."""

    path: str
    schema: type[BaseModel]
    answer: Callable[[Services, Any, float], Awaitable[bytes]]


ROUTES = {
    route.path: route
    for route in (
        HotRoute("/infer", schemas.InferRequest, infer),
        HotRoute("/infer_text", schemas.InferTextRequest, infer_text),
        HotRoute("/infer_image", schemas.InferImageRequest, infer_image),
    )
}


class Hot:
    """ASGI layer that answers ROUTES and hands on everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None or not is_small(scope):
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            start = time.perf_counter()
            request = schemas.parse(route.schema, await read(receive))
            body = await route.answer(scope["app"].state.services, request, start)
        except Exception as error:  # noqa: BLE001 - each becomes an answer, as FastAPI's handlers make it
            await response_to(error, scope)(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), JSON_TYPE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def is_small(scope: Scope) -> bool:
    """Whether a request says that its body is small; the memory of large ones, of images, is shared out."""
    for name, value in scope["headers"]:
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
