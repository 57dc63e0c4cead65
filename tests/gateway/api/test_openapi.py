"""The description of the API: it is the application's, says everything, and its examples run."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.api import schemas
from gateway.api.dialects import rerank_schemas
from gateway.application import create_app
from gateway.errors import kinds
from gateway.settings import Settings
from tests.conftest import MINILM, ROOT, Server
from tests.support.converted_models import CLIP, RANKER

APP = create_app(Settings(load_models=()))
DOCUMENT: dict[str, Any] = APP.openapi()
OPERATIONS = [
    (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
BODIES = [
    (path, method, operation["requestBody"]["content"]["application/json"])
    for path, method, operation in OPERATIONS
    if "requestBody" in operation
]
NATIVE = {"/infer", "/infer_text", "/infer_image"}
SPARE = "tiny/static"
CHANGES = {"/unload_model", "/delete_model"}
"""Their examples are sent for a model that no other test needs."""
EXAMPLES = [
    pytest.param(path, method, example["value"], id=f"{path} {name}")
    for path, method, content in BODIES
    for name, example in content.get("examples", {}).items()
]


def get(path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_openapi_json_is_the_applications(tmp_path: Path) -> None:
    # By a process of its own: among the tests, what else is imported may turn the order of a Literal.
    subprocess.run([ROOT / "scripts/openapi", tmp_path / "openapi.json"], check=True)
    written = (tmp_path / "openapi.json").read_text()
    assert (ROOT / "openapi.json").read_text() == written, "openapi.json is outdated: run scripts/openapi"


@pytest.mark.parametrize(("path", "content"), [(path, content) for path, _, content in BODIES])
def test_every_field_is_described(path: str, content: dict[str, Any]) -> None:
    for name, field in content["schema"]["properties"].items():
        assert field.get("description"), f"{path}: {name}"
        assert "default" in field or name in content["schema"]["required"], f"{path}: {name}"


def test_every_error_is_described() -> None:
    described = {status for path, _, operation in OPERATIONS for status in operation["responses"]}
    # Any request may be too slow, or have too long a URL or headers.
    assert described >= {str(kind.status) for kind in kinds()} - {"408", "414", "431"}
    for path, _, operation in OPERATIONS:
        if path in NATIVE:
            assert set(operation["responses"]) >= {"200", *"401 404 409 413 422 503 504".split()}, path


def test_every_body_has_an_example() -> None:
    assert {path for path, _, _ in BODIES} == {parameter.values[0] for parameter in EXAMPLES}


def load_spare(client: httpx.Client) -> None:
    answer = client.post("/load_sentence_transformer_model", json={"model_name": SPARE})
    assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def spare(server: Server) -> Iterator[None]:
    """Other tests find the model again."""
    yield
    with server.client() as client:
        load_spare(client)


@pytest.mark.usefixtures("spare")
@pytest.mark.parametrize(("path", "method", "body"), EXAMPLES)
def test_the_examples_run(
    server: Server,
    clip_server: Server,
    rank_server: Server,
    path: str,
    method: str,
    body: dict[str, Any],
) -> None:
    text = json.dumps(body)
    if path.endswith(("/rerank", "/predict", "/score")):
        body = json.loads(text.replace(rerank_schemas.MODEL, RANKER))
        with rank_server.client() as client:
            answer = client.request(method, path.replace("{model}", RANKER), json=body)
        assert answer.status_code == 200, answer.text
        return
    if schemas.CLIP_EXAMPLE in text:
        # Its weights are on the Hub; a tiny model is asked instead.
        body = {**body, **{field: CLIP for field in ("model_name", "name", "model") if field in body}}
        body.pop("pretrained", None)
    used = clip_server if schemas.CLIP_EXAMPLE in text else server
    if path in CHANGES:
        body = json.loads(text.replace(MINILM, SPARE))
    with used.client() as client:
        if path in CHANGES:
            load_spare(client)
        answer = client.request(method, path.replace("{model}", MINILM), json=body)
    assert answer.status_code == 200, answer.text


def test_the_documentation_needs_no_other_host() -> None:
    page = get("/docs")
    assert page.status_code == 200
    assert "//" not in page.text.replace("http://server", "")
    for source in ("swagger-ui-bundle.js", "swagger-ui.css"):
        address = next(part for part in page.text.split('"') if part.endswith(source))
        assert len(get(address).content) > 100_000
