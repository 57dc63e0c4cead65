"""What the routes of every API use: the application's parts, a body in the OpenAPI, answers in JSON."""

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from gateway.answers import Answer
from gateway.services import Services


def services(request: Request) -> Services:
    """What the application was built of."""
    found: Services = request.app.state.services
    return found


def json_body(schema: type[BaseModel], examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """OpenAPI's entry for a body that the route reads itself, without FastAPI's second model layer.

    examples: bodies by what they show; a test sends them.
    """
    whole = schema.model_json_schema()
    content = {"schema": _inlined(whole, whole.pop("$defs", {}))}
    if examples is not None:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def json(content: Any) -> Response:  # noqa: ANN401 - what orjson writes
    """A JSON answer; arrays are written without becoming lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def json_list(items: Sequence[Any]) -> Response:
    """A JSON answer of one list, item by item: in a thread, nobody waits for the lock longer than for one."""
    written = [orjson.dumps(item, option=orjson.OPT_SERIALIZE_NUMPY) for item in items]
    return Response(b"[" + b",".join(written) + b"]", media_type="application/json")


def written(answer: Answer) -> Response:
    """An answer that is already written."""
    return Response(answer.body, headers={name.decode(): value.decode() for name, value in answer.headers})


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:  # noqa: ANN401 - a JSON document
    """The schema without references: there is no place for definitions beside a single body."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _inlined({**definitions[schema["$ref"].rpartition("/")[2]], **beside}, definitions)
    return {key: _inlined(value, definitions) for key, value in schema.items()}
