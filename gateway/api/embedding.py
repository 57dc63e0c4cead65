"""The work of the embedding routes: from a validated body to vectors and to the encoded answer.

The fast path and FastAPI's routes call this module, which is independent of ASGI messages.
"""

from functools import partial

from starlette.types import Scope

from gateway.api import responses
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.api.fields import named_as_asked
from gateway.api.responses import Answer
from gateway.api.services import Services
from gateway.inference.multimodal import both
from gateway.inference.vectors import Vectors


async def infer(services: Services, body: InferRequest, start: float, media: str) -> Answer:
    """Return the answer to `POST /infer`.

    Args:
        services: the parts of the application.
        body: the validated body of the request.
        start: when the request arrived, in seconds of `time.perf_counter`.
        media: the media type of the answer; see `gateway/api/responses.py`.
    """
    form = body.form()
    with named_as_asked({"text": body.text, "image": body.image}):
        if body.image is None:
            texts, images = await embed_text(services, body, body.text or ""), None
        elif body.text is None:
            texts, images = None, await embed_images(services, body, body.image)
        else:
            responses.require_json(media)
            texts, images = await both(
                partial(embed_text, services, body, body.text),
                partial(embed_images, services, body, body.image),
            )
        return responses.encode(start, form, media, {"text_embeddings": texts, "image_embeddings": images})


async def infer_text(services: Services, body: InferTextRequest, start: float, media: str) -> Answer:
    """Return the answer to `POST /infer_text`; see `infer`."""
    form = body.form()
    with named_as_asked({"text": body.text}):
        vectors = await embed_text(services, body, body.text)
        return responses.encode(start, form, media, {"embedding": vectors})


async def infer_image(services: Services, body: InferImageRequest, start: float, media: str) -> Answer:
    """Return the answer to `POST /infer_image`; see `infer`."""
    form = body.form()
    with named_as_asked({"image": body.image}):
        vectors = await embed_images(services, body, body.image)
        return responses.encode(start, form, media, {"embedding": vectors})


async def embed_text(
    services: Services, body: InferRequest | InferTextRequest, text: str | list[str]
) -> Vectors:
    """Return the vectors of texts, embedded as the body asks: float32 [n, D]."""
    texts = [text] if isinstance(text, str) else text
    embedded = await services.embedder.embed(
        body.model_id(),
        texts,
        normalize=body.normalize is True,
        options=body.text_options(),
        timeout_ms=body.timeout_ms,
    )
    return embedded.vectors


async def embed_images(
    services: Services, body: InferRequest | InferImageRequest, image: str | list[str]
) -> Vectors:
    """Return the vectors of images, embedded as the body asks: float32 [n, D]."""
    images = [image] if isinstance(image, str) else image
    return await services.image_embedder.embed(
        body.model_id(), images, normalize=body.normalize is True, timeout_ms=body.timeout_ms
    )


def accepted(scope: Scope) -> str:
    """Return the media type that the `Accept` header of a request asks for."""
    for name, value in scope["headers"]:
        if name == b"accept" and value != b"*/*":
            return responses.media_type(value.decode("latin-1"))
    return responses.JSON
