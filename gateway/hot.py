"""The embedding routes, ahead of the routing and middleware of FastAPI, which cost more than all the rest.

FastAPI has the same routes (`routes.py`) for the documentation, and for all but a plain POST to one of them.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import schemas
from gateway.errors import InvalidInput, response_to
from gateway.services import Services

JSON_TYPE = (b"content-type", b"application/json")


async def infer(services: Services, content: bytes) -> bytes:
    """The answer to a body of `POST /infer`."""
    start = time.perf_counter()
    body = schemas.parse(schemas.InferRequest, content)
    if body.image is not None:
        raise InvalidInput(f"image: model {body.model_name} embeds text only")
    vectors = await embed_text(services, body, body.text or "")
    return answer(start, text_embeddings=vectors, image_embeddings=None)


async def infer_text(services: Services, content: bytes) -> bytes:
    """The answer to a body of `POST /infer_text`."""
    start = time.perf_counter()
    body = schemas.parse(schemas.InferTextRequest, content)
    return answer(start, embedding=await embed_text(services, body, body.text))


async def embed_text(
    services: Services, body: schemas.InferRequest | schemas.InferTextRequest, text: str | list[str]
) -> Any:  # noqa: ANN401 - an array, for orjson
    """Vectors of the body's texts, float32 [n, D]."""
    texts = [text] if isinstance(text, str) else text
    return await services.embedder.embed(body.text_model(), texts, normalize=body.normalize)


def answer(start: float, **fields: Any) -> bytes:  # noqa: ANN401 - arrays or None, for orjson
    """The JSON of an embedding route; arrays are written without becoming lists."""
    fields["processingTimeMs"] = (time.perf_counter() - start) * 1000
    return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)


class HotRoute(NamedTuple):
    """A route; `path` is read by the metrics, as of FastAPI's routes."""

    path: str
    answer: Callable[[Services, bytes], Awaitable[bytes]]


ROUTES = {route.path: route for route in (HotRoute("/infer", infer), HotRoute("/infer_text", infer_text))}


class Hot:
    """ASGI layer that answers ROUTES and hands on everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        route = ROUTES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            body = await route.answer(scope["app"].state.services, await read(receive))
        except Exception as error:  # noqa: BLE001 - each becomes an answer, as FastAPI's handlers make it
            await response_to(error, scope)(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(body)), JSON_TYPE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


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
