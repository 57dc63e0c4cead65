"""Router: texts take the route that the library gives them, by their input type and as texts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    Dense,
    Module,
    Normalize,
    Pooling,
    Router,
    Transformer,
)

from converters.errors import InvalidModel
from converters.sentence_transformer import routes
from converters.sources import router
from gateway.text.prompts import TextOptions
from gateway.text.tokenizer import TextTokenizer
from tests.converters.conftest import Convert, Converted
from tests.converters.graph.test_architectures import TEXTS, assert_texts_are_kept_apart
from tests.support.odd_models import saved
from tests.support.tiny_models import ARCHITECTURES, HIDDEN, static_model, transformer_model
from triton_models.contract.prompts import INPUT_TYPES, InputType

WIDTH = 12


def dense(seed: int) -> Dense:
    torch.manual_seed(seed)
    return Dense(HIDDEN, WIDTH)


def by_type(path: Path) -> Path:
    """Save a model with one transformer and a Dense of its own for queries and for documents."""
    tails = Router({"query": [dense(1)], "document": [dense(2)]}, default_route="document")
    return saved(path, *ARCHITECTURES["bert"](), [Pooling(HIDDEN, "mean"), tails, Normalize()])


def by_type_from_the_start(path: Path) -> Path:
    """Save a model whose Router is its first module and whose routes share the transformer."""
    first: Any = SentenceTransformer(str(transformer_model(path.parent / "base")), device="cpu")[0]
    pooling = Pooling(HIDDEN, "mean")
    routed = Router.for_query_document(
        [first, pooling, dense(1)], [first, Pooling(HIDDEN, "cls"), dense(2)], default_route="query"
    )
    prompts = {"query": "ask: ", "document": ""}
    model = SentenceTransformer(modules=[routed, Normalize()], device="cpu", prompts=prompts)
    model.save(str(path), create_model_card=False)
    return path


def by_modality(path: Path) -> Path:
    """Save a model with a route of texts, and another that no text takes."""
    text: Any = SentenceTransformer(str(transformer_model(path.parent / "text")), device="cpu")
    other: Any = SentenceTransformer(str(static_model(path.parent / "other")), device="cpu")
    routed = Router(
        {"image": list(other), "words": list(text)},
        route_mappings={(None, "text"): "words", (None, "image"): "image"},
    )
    model = SentenceTransformer(modules=[routed], device="cpu")
    model.save(str(path), create_model_card=False)
    return path


def assert_the_librarys(converted: Converted, path: Path) -> None:
    """Every text as a query, as a document and without a type, all in one batch and alone."""
    reference = SentenceTransformer(str(path), device="cpu")
    tokenizer = TextTokenizer(converted.directory, converted.manifest)
    kinds: tuple[InputType | None, ...] = (None, *INPUT_TYPES)
    encode: dict[InputType | None, Callable[..., Any]] = {
        None: reference.encode,
        "query": reference.encode_query,
        "document": reference.encode_document,
    }
    expected = np.concatenate([encode[kind](TEXTS, batch_size=1) for kind in kinds])
    rows = [
        row.tolist() for kind in kinds for row in tokenizer.encode(TEXTS, TextOptions(input_type=kind)).rows
    ]
    alone = np.concatenate([converted.embed([row]) for row in rows])
    for found in (alone, converted.embed(rows)):
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("made", "routed"), [(by_type, ["query"]), (by_type_from_the_start, ["document"]), (by_modality, [])]
)
def test_the_librarys_vectors(
    made: Callable[[Path], Path], routed: list[str], sources: Path, convert: Convert
) -> None:
    path = made(sources / "model")
    converted = convert("model")
    assert converted.manifest.routed == routed
    assert converted.manifest.normalized
    assert_the_librarys(converted, path)
    assert_texts_are_kept_apart(converted)


def test_routes_that_are_two_models(sources: Path, convert: Convert) -> None:
    document: Any = SentenceTransformer(str(transformer_model(sources / "document")), device="cpu")
    query: Any = SentenceTransformer(str(static_model(sources / "query")), device="cpu")
    routed = Router.for_query_document(list(query), list(document))
    SentenceTransformer(modules=[routed], device="cpu").save(str(sources / "model"), create_model_card=False)
    with pytest.raises(
        InvalidModel, match=r"a query to another StaticEmbedding.* save the modules of each route"
    ):
        convert("model")


@pytest.mark.parametrize(
    ("tails", "default", "named"),
    [
        ({"query": [dense(1)], "document": [Dense(HIDDEN, 5)]}, "query", "vectors of different lengths"),
        ({"query": [dense(1)], "document": [dense(2)], "x": [dense(3)]}, "x", "three routes"),
        ({"query": [dense(1)], "document": [CNN(HIDDEN)]}, "query", "CNN"),
        ({"query": [dense(1)]}, "query", "no route for a document"),
    ],
)
def test_routes_that_are_refused(
    tails: dict[str, list[Module]], default: str, named: str, sources: Path, convert: Convert
) -> None:
    after = [Pooling(HIDDEN, "mean"), Router(tails, default_route=default)]
    saved(sources / "model", *ARCHITECTURES["bert"](), after)
    with pytest.raises(InvalidModel, match=named):
        convert("model")


def damaged(data: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    return {**data, key: value}


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no object": (lambda _: [], "router_config.json is broken"),
    "no structure": (lambda data: damaged(data, "structure", {}), "router_config.json is broken"),
    "unknown folder": (lambda data: damaged(data, "structure", {"a": ["x"]}), "router_config.json is broken"),
    "outside": (
        lambda data: {**data, "types": {**data["types"], "../x": "sentence_transformers.Dense"}},
        "outside of the Router",
    ),
    "code": (
        lambda data: {**data, "types": dict.fromkeys(data["types"], "os.system")},
        "'os.system' is code",
    ),
    "another parameter": (lambda data: damaged(data, "parameters", {"x": 1}), "key 'x'"),
    "no pair": (
        lambda data: damaged(data, "parameters", {"route_mappings": {"open('x')": "query"}}),
        "no pair of task and modality",
    ),
    "route elsewhere": (
        lambda data: damaged(data, "parameters", {"default_route": "x"}),
        "a route that it does not",
    ),
    "a second first": (
        lambda data: {
            **data,
            "types": dict.fromkeys(data["types"], "sentence_transformers.models.Transformer"),
        },
        "is Transformer",
    ),
    "a Router inside": (
        lambda data: {**data, "types": dict.fromkeys(data["types"], "sentence_transformers.models.Asym")},
        "is Asym",
    ),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_broken_files(damage: str, sources: Path, convert: Convert) -> None:
    how, named = BROKEN[damage]
    file = by_type(sources / "model") / "2_Router" / "router_config.json"
    file.write_text(json.dumps(how(json.loads(file.read_text()))))
    with pytest.raises(InvalidModel, match=named):
        convert("model")


@pytest.mark.parametrize("default", [None, "b"])
@pytest.mark.parametrize("allow_empty_key", [False, True])
@pytest.mark.parametrize(
    "mappings", [{}, {(None, "text"): "b"}, {(None, None): "b"}, {("query", "text"): "b"}]
)
@pytest.mark.parametrize("names", [("a", "b"), ("text", "b"), ("a", "b", "query")])
def test_the_route_of_a_text_is_the_librarys(
    default: str | None,
    allow_empty_key: bool,
    mappings: dict[tuple[str | None, str | tuple[str, ...] | None], str],
    names: tuple[str, ...],
    tmp_path: Path,
) -> None:
    made = Router({name: [Normalize()] for name in names}, default, allow_empty_key, mappings)
    (tmp_path / "model").mkdir()
    made.save(str(tmp_path / "model"))
    found = router.read(tmp_path / "model").route_of_text()
    try:
        expected = made._resolve_route(task=None, modality="text")
    except ValueError:
        expected = None
    assert found == expected


def test_routes_of_the_library_are_those_of_a_text() -> None:
    made = Router({"query": [dense(1)], "document": [dense(2)]}, route_mappings={("query", None): "document"})
    model = SentenceTransformer(modules=[made], device="cpu")
    (query,), (document,) = routes.chain(model, "query"), routes.chain(model, "document")
    assert query is document
    assert Transformer.forward_kwargs == set()
