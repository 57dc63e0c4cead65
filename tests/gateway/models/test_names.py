"""One model has one name, whatever its spelling; the error for a model that is not loaded helps."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sentence_transformers.util import ORIGINAL_TRANSFORMER_MODELS

from gateway.errors import ModelNotFound
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog
from gateway.models.names import LONGEST_LIST, Names
from tests.conftest import Server
from tests.support.converted_models import NORMALIZED, Stock
from tests.support.tiny_repository import install
from tests.support.vectors import embed
from triton_models.contract.hub_names import PUBLISHED, WITHOUT_OWNER
from triton_models.contract.manifest import Source
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import Repository

LOAD = "/load_sentence_transformer_model"
BARE, FULL = "all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"
HUB = Source("hub", "models--sentence-transformers--all-MiniLM-L6-v2", "abc", {})


def add(repository: Repository, name: str, *, wanted: bool = True, source: Source = HUB) -> None:
    """Put a model into the repository, as converted under this name."""
    triton_name = ModelId.named(name, None).text_triton_name
    install(repository, triton_name, 1, model_name=name, source=source)
    repository.set_state(triton_name, ModelState(wanted=wanted))


def resolved(names: Names, name: str) -> str:
    found = names.for_load(ModelId.parse(name))
    assert names.find(ModelId.parse(name)) in (found, ModelId.parse(name))
    return found.id


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def test_the_list_is_the_library_s() -> None:
    assert frozenset(ORIGINAL_TRANSFORMER_MODELS) == WITHOUT_OWNER
    assert not {name.lower() for name in PUBLISHED} & WITHOUT_OWNER


@pytest.mark.parametrize("name", [BARE, FULL])
def test_a_bare_name_is_one_of_sentence_transformers(repository: Repository, name: str) -> None:
    assert resolved(Names(repository), name) == FULL
    add(repository, FULL)
    assert resolved(Names(repository), name) == FULL


@pytest.mark.parametrize("name", ["bert-base-uncased", "Bert-base-uncased", "intfloat/e5-small-v2"])
def test_other_names_are_what_they_say(repository: Repository, name: str) -> None:
    assert resolved(Names(repository), name) == name


def test_a_copy_of_an_earlier_version_is_used(repository: Repository) -> None:
    add(repository, BARE)
    assert resolved(Names(repository), FULL) == resolved(Names(repository), BARE) == BARE
    # Both were loaded; the one that still is answers for both.
    add(repository, FULL)
    repository.set_state(BARE, ModelState())
    assert resolved(Names(repository), FULL) == resolved(Names(repository), BARE) == FULL


@pytest.mark.parametrize("converted", [False, True])
def test_a_directory_of_the_bare_name_is_another_model(
    repository: Repository, tmp_path: Path, converted: bool
) -> None:
    if converted:
        add(repository, BARE, source=Source("directory", "nowhere", None, {}), wanted=False)
    else:
        (tmp_path / BARE).mkdir()
    add(repository, FULL)
    names = Names(repository, [tmp_path])
    assert (resolved(names, BARE), resolved(names, FULL)) == (BARE, FULL)


def test_a_tag_of_open_clip_in_another_case(repository: Repository) -> None:
    names = Names(repository)
    assert resolved(names, "ViT-B-32:laion2B-s34B-b79K") == "ViT-B-32:laion2b_s34b_b79k"
    assert resolved(names, "ViT-B-32:My-Weights.pt") == "ViT-B-32:My-Weights.pt"


def test_either_spelling_is_one_cached_model(repository: Repository) -> None:
    async def run() -> None:
        catalog = Catalog(repository)
        assert (await catalog.named(BARE)) == (await catalog.named(FULL)) == ModelId(FULL)

    add(repository, FULL)
    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "advised"),
    [
        (FULL, True),
        (BARE, True),
        ("bert-base-uncased", True),
        ("intfloat/e5-small-v2", True),
        ("of-mine", True),
        ("at-start", True),
        ("ViT-B-32:openai", True),
        ("hf-hub:owner/clip", True),
        ("text-embedding-3-small", False),
        ("default", False),
        ("no-architecture:openai", False),
    ],
)
def test_only_a_load_that_can_work_is_advised(
    repository: Repository, tmp_path: Path, name: str, advised: bool
) -> None:
    (tmp_path / "of-mine").mkdir()
    model_id = ModelId.parse(name)
    error = str(Names(repository, [tmp_path], ["at-start"]).not_loaded(model_id))
    assert f"model {model_id} is not loaded" in error
    route = "/load_clip_model" if model_id.is_clip else LOAD
    assert (f'load it with POST {route} {{"model_name": "{model_id.model_name}"' in error) == advised
    assert route in error
    assert error.endswith("Loaded: no model")


def test_the_list_of_loaded_models_is_bounded(repository: Repository) -> None:
    names = Names(repository)
    add(repository, "owner/unloaded", wanted=False)
    add(repository, "owner/first")
    add(repository, "owner/second")
    assert str(names.not_loaded(ModelId("default"))).endswith("Loaded: owner/first, owner/second")
    for number in range(12):
        add(repository, f"o{'x' * 90}/{number:02}{'y' * 90}")
    error = str(names.not_loaded(ModelId("default")))
    assert len(error) < LONGEST_LIST + 300
    assert error.endswith(" more")


def test_a_model_that_is_not_converted(repository: Repository) -> None:
    with pytest.raises(ModelNotFound, match=r"model default is not loaded; .* Loaded: no model"):
        asyncio.run(Catalog(repository).texts.get(ModelId("default")))


@pytest.mark.parametrize("remembered", [True, False])
def test_a_spelling_is_remembered_for_a_moment_and_no_longer(
    repository: Repository, stock: Stock, monkeypatch: pytest.MonkeyPatch, remembered: bool
) -> None:
    """Requests under the other spelling need no thread and no file, and no other model's vectors come."""
    monkeypatch.setattr("gateway.models.names.KEPT_SECONDS", 60.0 if remembered else 0.0)
    stock.put(repository.root, NORMALIZED, "sentence-transformers/tiny")

    async def run() -> None:
        catalog = Catalog(repository)
        full, bare = ModelId("sentence-transformers/tiny"), ModelId("tiny")
        model = await catalog.texts.get(bare)
        assert model.model_id == full
        assert await catalog.named("tiny") == full
        stock.put(repository.root, NORMALIZED, "tiny")
        expected = full if remembered else bare
        assert (await catalog.texts.get(bare)).model_id == expected
        assert await catalog.named("tiny") == expected
        assert await catalog.texts.get(full) is model

    asyncio.run(run())


@pytest.fixture
def put(own: Server, stock: Stock) -> Callable[[str], Path]:
    return lambda name: stock.put(own.repository, NORMALIZED, name)[0]


def test_both_spellings_over_http(api: httpx.Client, put: Callable[[str], Path]) -> None:
    put("sentence-transformers/tiny")
    body = {"model_name": "tiny"}
    answer = api.post(LOAD, json=body)
    assert answer.json() == {"message": "Model sentence-transformers/tiny is loaded."}
    assert api.post(LOAD, json=body).json()["message"].endswith("is already loaded.")
    assert api.get("/loaded_models").json()["models"] == ["sentence-transformers_tiny"]
    full = embed(api, ["a dog"], "sentence-transformers/tiny")
    assert (embed(api, ["a dog"], "tiny") == full).all()
    assert api.post("/v1/embeddings", json={"model": "tiny", "input": "a dog"}).status_code == 200
    assert api.post("/tei/tiny/embed", json={"inputs": "a dog"}).status_code == 200
    assert api.get("/v1/models/tiny").json()["id"] == "sentence-transformers/tiny"
    missing = api.post("/v1/embeddings", json={"model": "default", "input": "a dog"})
    assert missing.status_code == 404
    assert "Loaded: sentence-transformers/tiny" in missing.json()["error"]["message"]
    assert api.post("/unload_model", json=body).status_code == 200
    assert api.post("/infer_text", json={**body, "text": "a dog"}).status_code == 404
    assert api.post("/delete_model", json=body).status_code == 200
    assert api.get("/repository_models").json()["models"] == []
