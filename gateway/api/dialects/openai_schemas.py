"""The answers of OpenAI's API."""

from typing import Literal

from pydantic import BaseModel

from gateway.api.embedding_schemas import TakenRanges


class Embedding(BaseModel):
    """One vector; a string for `encoding_format` base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | list[int] | str


class Usage(BaseModel):
    """Tokens that the model got, special ones included; none of an image."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Answer of `POST /v1/embeddings`; `model` is as the request names it.

    ranges: as of `/infer`.
    """

    id: str
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    ranges: TakenRanges = None


class Model(BaseModel):
    """One loaded model; `created` is when it was converted, in seconds since 1970."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[Model]


class Error(BaseModel):
    """What is wrong; `param` is the field at fault, `code` the kind in one word."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """Every error's body below `/v1`."""

    error: Error
