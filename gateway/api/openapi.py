"""Additions to the OpenAPI document that FastAPI generates: examples, errors, binary answers, the key."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from gateway.api import schemas
from gateway.api.responses import DTYPE_HEADER, NPY, OCTETS, SHAPE_HEADER
from gateway.errors import kinds

DESCRIPTION = (
    "Text and image embeddings from any sentence-transformers or OpenCLIP model. "
    "Load one, then ask for vectors; every error is one line that says what to change."
)

_MODEL = {"model_name": schemas.MODEL_EXAMPLE}
_CLIP = {"model_name": schemas.CLIP_EXAMPLE, "pretrained": schemas.PRETRAINED_EXAMPLE}
_TEXTS = {"text": ["a diver", "a dog"]}
_IMAGES = {"image": [schemas.IMAGE_EXAMPLE]}

LOAD_EXAMPLES: dict[str, Any] = {
    "by name": _MODEL,
    "tuned": {**_MODEL, "max_batch_size": 64, "max_queue_delay_microseconds": 500},
}
LOAD_CLIP_EXAMPLES: dict[str, Any] = {"by architecture and tag": _CLIP}
MODEL_EXAMPLES: dict[str, Any] = {"by name": _MODEL}
TEXT_EXAMPLES: dict[str, Any] = {
    "texts": {**_MODEL, **_TEXTS},
    "a query, with its prompt": {**_MODEL, "text": "how deep do divers go?", "input_type": "query"},
    "E5": {**_MODEL, "text": "how deep do divers go?", "prompt": "query: "},
    "nothing cut off in silence": {**_MODEL, **_TEXTS, "truncate": False},
    "fewer dimensions": {**_MODEL, **_TEXTS, "dimensions": 128},
    "base64": {**_MODEL, **_TEXTS, "encoding_format": "base64"},
    "one bit a dimension": {**_MODEL, **_TEXTS, "embedding_dtype": "ubinary"},
    "int8 in given ranges": {
        **_MODEL,
        **_TEXTS,
        "dimensions": 2,
        "embedding_dtype": "int8",
        "ranges": [[-1.0, -1.0], [1.0, 1.0]],
    },
}
IMAGE_EXAMPLES: dict[str, Any] = {"images": {**_CLIP, **_IMAGES}}
BOTH_EXAMPLES: dict[str, Any] = {**TEXT_EXAMPLES, "texts and images": {**_CLIP, **_TEXTS, **_IMAGES}}

NDJSON_ANSWER: dict[str, Any] = {
    "application/x-ndjson": {"schema": {"type": "string", "description": "One JSON object a line."}}
}
PROMETHEUS_ANSWER: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
VECTOR_ANSWER: dict[str, Any] = {
    media: {"schema": {"type": "string", "format": "binary", "description": description}}
    for media, description in (
        (OCTETS, "The rows one after another, little-endian; the headers say how many and of what."),
        (NPY, "The rows as a file of numpy."),
    )
}
VECTOR_HEADERS: dict[str, Any] = {
    SHAPE_HEADER: {"description": "Of bytes: rows and columns, `256,384`.", "schema": {"type": "string"}},
    DTYPE_HEADER: {"description": "Of bytes: numpy's name of the type.", "schema": {"type": "string"}},
}


def responses(
    *statuses: int,
    model: type[BaseModel] = schemas.ErrorDetail,
    content: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's entries for errors, and for the other formats and headers of a success.

    Args:
        statuses: the statuses of the errors.
        model: the schema of the errors' bodies.
        content: media types of a success besides JSON.
        headers: response headers of a success; only with `content`.
    """
    entries: dict[int | str, dict[str, Any]] = {
        status: {"model": model, "description": _meaning(status)} for status in statuses
    }
    if content is not None:
        entries[200] = {"content": content, **({} if headers is None else {"headers": headers})}
    return entries


def install(app: FastAPI) -> None:
    """Add to the document the optional key, and the null defaults that FastAPI leaves out."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "Where the server has API_KEYS."}
        }
        document["security"] = [{}, {"key": []}]
        for operations in document["paths"].values():
            for operation in operations.values():
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    _show_nulls(content["schema"])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _show_nulls(schema: dict[str, Any]) -> None:
    """Write `null` as the default of every optional field without one."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()):
            field.setdefault("default", None)


def _meaning(status: int) -> str:
    """Return the docstrings of the errors that have a status."""
    return " ".join((kind.__doc__ or "").strip() for kind in kinds() if kind.status == status)


def json_body(schema: type[BaseModel], examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return OpenAPI's entry for a body that the route reads itself, without FastAPI's second model layer.

    Args:
        schema: the schema of the body.
        examples: bodies by title; a test sends them.
    """
    whole = schema.model_json_schema()
    content = {"schema": _inlined(whole, whole.pop("$defs", {}))}
    if examples is not None:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401 - a JSON document
    """Return the schema with all references resolved, since a single body has no place for definitions."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _inlined({**definitions[schema["$ref"].rpartition("/")[2]], **beside}, definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}
