"""Keys and origins: who may do what, on a real server and on the application alone."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from openai import AuthenticationError, OpenAI

from gateway.credentials import SECRETS
from gateway.middleware.access import Keys
from gateway.settings import Settings, SettingsError, read_settings
from tests.conftest import Server
from tests.faults.processes import family
from tests.support.app_without_triton import ANOTHER, asking, bearer

ADMIN_ONLY = {
    ("POST", "/load_sentence_transformer_model"),
    ("POST", "/load_clip_model"),
    ("POST", "/load_model"),
    ("POST", "/unload_model"),
    ("POST", "/delete_model"),
    ("DELETE", "/delete_model"),
}
"""All that changes models. What is not here must not."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("guarded")
    keys = {"API_KEYS": "first,second", "ADMIN_API_KEYS": "administrator", "TRITON_GRPC_HEADERS": "key=third"}
    keys |= {"HF_TOKEN": "fourth", "TRITONCACHE_REDIS_PASSWORD": "fifth"}
    server = Server(root / "repository", {**keys, "HOST": "0.0.0.0"}, root / "server.log")
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


@pytest.mark.parametrize(
    ("api_keys", "admin_api_keys", "key", "embeds", "administers"),
    [
        ("", "", "", 422, 422),
        ("", "", "any", 422, 422),
        ("e", "", "", 401, 401),
        ("e", "", "e", 422, 422),
        ("e,f", "", "f", 422, 422),
        ("e", "a", "", 401, 401),
        ("e", "a", "wrong", 401, 401),
        ("e", "a", "e", 422, 403),
        ("e", "a", "a", 422, 422),
        ("e", "a,b", "b", 422, 422),
        ("", "a", "", 422, 401),
        ("", "a", "wrong", 422, 401),
        ("", "a", "a", 422, 422),
    ],
)
def test_who_may_do_what(api_keys: str, admin_api_keys: str, key: str, embeds: int, administers: int) -> None:
    """422 is what follows: the body says nothing."""
    client = asking(api_keys=api_keys, admin_api_keys=admin_api_keys)
    for path, status in (("/infer", embeds), ("/embed_text", embeds), ("/unload_model", administers)):
        answer = client.post(path, content="{}", headers=bearer(key))
        assert answer.status_code == status, path
        assert status != 401 or answer.headers["www-authenticate"] == "Bearer"
    looked = client.get("/nothing", headers=bearer(key))
    assert looked.status_code == (401 if embeds == 401 else 404)


def test_every_route_that_changes_models_needs_an_administrators_key() -> None:
    client = asking(api_keys="e", admin_api_keys="a")
    document = client.get("/openapi.json", headers=bearer("e")).json()
    refused = set()
    for path, operations in document["paths"].items():
        for method in operations:
            filled = path.replace("{model}", "m")
            answer = client.request(method.upper(), filled, content="{}", headers=bearer("e"))
            assert answer.status_code != 401
            if answer.status_code == 403:
                refused.add((method.upper(), path))
                assert "ADMIN_API_KEYS" in answer.json()["detail"]
                assert "403" in operations[method]["responses"]
    assert refused == ADMIN_ONLY


@pytest.mark.parametrize(
    "path", ["/proxied/unload_model", "/proxied//unload_model", "/proxied/unload_model/"]
)
def test_no_way_of_writing_the_path_leads_around_the_key(path: str) -> None:
    client = asking("/proxied", api_keys="e", admin_api_keys="a")
    answer = client.post(path, content="{}", headers=bearer("e"), follow_redirects=True)
    assert answer.status_code in (403, 404)
    assert client.get("/proxied/loaded_models").status_code == 401
    assert client.get("/proxied/health/live").status_code == 200


def test_keys_of_any_length_and_script_are_told_apart() -> None:
    keys = Keys(("k" * 4096, "schlüssel"), ())
    for key in ("k" * 4096, "schlüssel"):
        assert keys.caller(f"Bearer {key}".encode()).key
    for key in ("k" * 4095, "k" * 4097, "", "schlussel"):
        assert not keys.caller(f"Bearer {key}".encode()).key


def test_triton_and_what_runs_in_it_do_not_inherit_the_keys(guarded: Server) -> None:
    assert guarded.process is not None
    children = psutil.Process(guarded.process.pid).children(recursive=True)
    assert children
    for child in children:
        assert not {*SECRETS, "HF_TOKEN"} & set(child.environ())


def test_a_converter_gets_no_keys_and_is_the_first_that_the_kernel_ends(guarded: Server) -> None:
    seen: list[tuple[set[str], int]] = []
    with ThreadPoolExecutor() as threads:
        body, key = {"model_name": "not/there"}, bearer("administrator")
        url = f"{guarded.url}/load_sentence_transformer_model"
        loading = threads.submit(httpx.post, url, json=body, headers=key, timeout=200, trust_env=False)
        while not loading.done():
            for converter in family(guarded, "-m converters"):
                with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                    environment = set(converter.environ())
                    seen.append((environment, oom_score_adj(converter)))
            time.sleep(0.01)
    assert loading.result().status_code == 404, loading.result().text
    assert seen
    assert not any(environment & {*SECRETS, "TRITONCACHE_REDIS_PASSWORD"} for environment, _ in seen)
    # What it downloads with; between its start and that of its program it shows none at all.
    assert any("HF_TOKEN" in environment for environment, _ in seen)
    # What serves keeps what the server was started with, so that the kernel ends no part of it before.
    assert max(score for _, score in seen) == 1000
    assert all(oom_score_adj(process) < 1000 for process in family(guarded))


def oom_score_adj(process: psutil.Process) -> int:
    return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())


def test_a_server_with_keys_warns_of_nothing(guarded: Server) -> None:
    assert "NO KEY" not in guarded.log.read_text()


def test_web_pages_of_other_origins_get_nothing_unless_allowed() -> None:
    preflight = {"Origin": ANOTHER, "Access-Control-Request-Method": "POST"}
    client = asking(api_keys="e")
    asked = client.options("/infer", headers=preflight)
    answered = client.get("/openapi.json", headers={**bearer("e"), "Origin": ANOTHER})
    for answer in (asked, answered):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    client = asking(api_keys="e", cors_origins=ANOTHER)
    wanted = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
    asked = client.options("/infer", headers={**preflight, **wanted})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == ANOTHER
    assert "authorization" in asked.headers["access-control-allow-headers"]
    # Refusals can be read too.
    for headers, status in ((bearer("e"), 422), ({}, 401)):
        answer = client.post("/infer", content="{}", headers={**headers, "Origin": ANOTHER})
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ANOTHER
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
    third = client.options("/infer", headers={**preflight, "Origin": "https://third.example"})
    assert third.status_code == 400
    assert "access-control-allow-origin" not in third.headers


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        (None, "embeddings:8686", 422),
        ("http://127.0.0.1:8686", "127.0.0.1:8686", 422),
        ("http://localhost:8686", "localhost:8686", 422),
        ("http://[::1]:8686", "[::1]:8686", 422),
        (ANOTHER, "127.0.0.1:8686", 403),
        ("null", "127.0.0.1:8686", 403),
        ("http://127.0.0.1:80", "127.0.0.1:8686", 403),
        # A name that leads to this machine since its page was loaded.
        ("http://rebound.example:8686", "rebound.example:8686", 403),
    ],
)
def test_without_keys_no_web_page_from_elsewhere_changes_models(
    origin: str | None, host: str, status: int
) -> None:
    headers = {"Host": host, **({} if origin is None else {"Origin": origin})}
    client = asking()
    answer = client.post("/delete_model", content="{}", headers=headers)
    assert answer.status_code == status
    client = asking(cors_origins=ANOTHER)
    allowed = client.post("/delete_model", content="{}", headers={"Origin": ANOTHER})
    assert allowed.status_code == 422
    client = asking(api_keys="e")
    keyed = client.post("/delete_model", content="{}", headers={**headers, **bearer("e")})
    assert keyed.status_code == 422


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ADMIN_API_KEYS": "a,e", "API_KEYS": "e"}, "ADMIN_API_KEYS: a key is in API_KEYS too"),
        ({"CORS_ORIGINS": "https://a.example/"}, "CORS_ORIGINS: https://a.example/ is no origin"),
        ({"CORS_ORIGINS": "a.example"}, "CORS_ORIGINS: a.example is no origin"),
        ({"RATE_LIMIT": "0"}, "RATE_LIMIT:"),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT:"),
        ({"TRITON_GRPC_TLS_CA": "/nowhere/ca.pem"}, "TRITON_GRPC_TLS_CA:"),
        ({"TRITON_GRPC_HEADERS": "secret"}, "TRITON_GRPC_HEADERS: must be NAME=VALUE"),
    ],
)
def test_unusable_settings_stop_the_start_and_show_no_secret(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(refused.value).startswith(message)
    if "(got" in str(refused.value):
        assert "KEYS" not in message
        assert "HEADERS" not in message


def test_settings_show_no_secret() -> None:
    shown = repr(Settings(api_keys=("key-e",), admin_api_keys=("key-a",), triton_grpc_headers=("a=key-h",)))
    assert "key-" not in shown
