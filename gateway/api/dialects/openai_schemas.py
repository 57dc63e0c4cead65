"""The answers of OpenAI's API."""

from typing import Literal

from pydantic import BaseModel

from gateway.api.embedding_schemas import TakenRanges
from triton_models.contract.manifest import Kind


class Embedding(BaseModel):
    """One vector; a string if `encoding_format` is base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | list[int] | str


class Usage(BaseModel):
    """Number of tokens that the model received, special tokens included; an image has none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Answer of `POST /v1/embeddings`.

    `model` is the name from the request; `ranges` is as in the answer of `/infer`.
    """

    id: str
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    ranges: TakenRanges = None


class Model(BaseModel):
    """One loaded model; `created` is the time of its conversion, in seconds since 1970.

    `kind` says what it gives: vectors of texts or images, or scores of pairs of texts.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    kind: Kind


class Models(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[Model]


class Error(BaseModel):
    """An error; `param` is the field at fault, and `code` the kind of error in one word."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """Body of every error below `/v1`."""

    error: Error
