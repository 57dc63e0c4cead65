"""TODO."""

from functools import partial

from starlette.types import Scope

from gateway.api import responses
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.api.fields import tell_as_asked
from gateway.api.responses import Answer
from gateway.api.services import Services
from gateway.errors import InvalidInput, TooLarge
from gateway.inference.multimodal import both
from gateway.inference.vectors import Vectors
from gateway.model_id import Reference


async def infer(services: Services, body: InferRequest, start: float, media: str) -> Answer:
    """The answer to a body of `POST /infer` that came at `start`, of `time.perf_counter`.

    media: of the answer, see `gateway/api/responses.py`.
    """
    form = body.form()
    try:
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
        return responses.written(start, form, media, {"text_embeddings": texts, "image_embeddings": images})
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"text": body.text, "image": body.image})
        raise


async def infer_text(services: Services, body: InferTextRequest, start: float, media: str) -> Answer:
    """The answer to a body of `POST /infer_text`."""
    form = body.form()
    try:
        vectors = await embed_text(services, body, body.text)
        return responses.written(start, form, media, {"embedding": vectors})
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"text": body.text})
        raise


async def infer_image(services: Services, body: InferImageRequest, start: float, media: str) -> Answer:
    """The answer to a body of `POST /infer_image`."""
    form = body.form()
    try:
        vectors = await embed_images(services, body, body.image)
        return responses.written(start, form, media, {"embedding": vectors})
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


def accepted(scope: Scope) -> str:
    """The media type that a request asks for."""
    for name, value in scope["headers"]:
        if name == b"accept" and value != b"*/*":
            return responses.media_type(value.decode("latin-1"))
    return responses.JSON
