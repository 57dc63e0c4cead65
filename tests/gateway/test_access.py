"""Keys."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from openai import AuthenticationError, OpenAI

from tests.conftest import Server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("guarded")
    server = Server(root / "repository", {"API_KEYS": "first,second"}, root / "server.log")
    with server.running():
        yield server


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Bearer first,second", 401),
        ("Basic first", 401),
        ("Bearer first", 200),
        ("bearer second", 200),
    ],
)
def test_a_key_is_asked_for(guarded: Server, header: str | None, status: int) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/loaded_models", "/metrics", "/openapi.json"):
        answer = httpx.get(guarded.url + path, headers=headers, trust_env=False)
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "Bearer KEY" in answer.json()["detail"]


def test_health_needs_no_key(guarded: Server) -> None:
    assert httpx.get(f"{guarded.url}/health", trust_env=False).status_code == 200


def test_each_api_has_its_own_words_for_a_missing_key(guarded: Server) -> None:
    asked = {"/v1/models": "error", "/tei/a/info": "error_type", "/weaviate/a/meta": "error"}
    for path, field in asked.items():
        answer = httpx.get(guarded.url + path, trust_env=False)
        assert answer.status_code == 401
        assert "Bearer KEY" in str(answer.json()[field] if field == "error" else answer.json()["error"])
        assert field in answer.json()
    with OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong") as client:
        with pytest.raises(AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
    with OpenAI(base_url=f"{guarded.url}/v1", api_key="first") as client:
        assert list(client.models.list()) == []
    token = InferenceClient(f"{guarded.url}/tei/a", token="second")
    with pytest.raises(HfHubHTTPError, match="is not loaded"):
        token.feature_extraction("a")
