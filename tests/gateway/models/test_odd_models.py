"""Models with no vector for some texts, and with a limit that is too large, through a running server."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from tests.conftest import Server
from tests.support.odd_models import POSITIONS, gpt2, saved, without_tokens_of_nothing
from tests.support.tiny_tokenizers import VOCAB, byte_level
from tests.support.vectors import cosines, embed

LOAD = "/load_sentence_transformer_model"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("odd")
    sources = root / "sources"
    (sources / "odd").mkdir(parents=True)
    without_tokens_of_nothing(sources / "odd" / "empty", "gpt2")
    tokenizer = byte_level()
    tokenizer.add_tokens(["brandnew", "newer"])
    saved(sources / "odd" / "added", gpt2(), tokenizer, max_seq_length=512)
    server = Server(root / "repository", {"MODEL_SOURCES": str(sources)}, root / "server.log")
    with server.running():
        yield server


@pytest.fixture
def api(own: Server) -> Iterator[httpx.Client]:
    with own.client() as client:
        yield client


def library(own: Server, name: str) -> SentenceTransformer:
    return SentenceTransformer(str(Path(own.environment["MODEL_SOURCES"]) / name), device="cpu")


def infer(api: httpx.Client, name: str, texts: list[str]) -> httpx.Response:
    return api.post("/infer_text", json={"model_name": name, "text": texts})


def test_an_empty_text_is_the_error_of_that_text(api: httpx.Client, own: Server) -> None:
    loaded = api.post(LOAD, json={"model_name": "odd/empty"})
    assert loaded.status_code == 200, loaded.text
    refused = infer(api, "odd/empty", ["a dog", "", "a cat"])
    assert refused.status_code == 422
    assert "text.1: the model's tokenizer makes no token of it" in refused.text
    texts = ["a dog", "the quick brown fox"]
    expected = library(own, "odd/empty").encode(texts, batch_size=1)
    assert cosines(embed(api, texts, "odd/empty"), expected).min() > 0.99999


@pytest.mark.slow
def test_a_token_of_the_tokenizer_alone_is_the_error_of_its_text(api: httpx.Client, own: Server) -> None:
    loaded = api.post(LOAD, json={"model_name": "odd/added"})
    assert loaded.status_code == 200, loaded.text
    # The load names the tokens and the lowered limit.
    assert "'brandnew', 'newer'" in loaded.text
    assert f"it has {POSITIONS} positions" in loaded.text
    # The first id is that of the planted row, the second is in no row at all.
    for word, id_ in (("brandnew", VOCAB), ("newer", VOCAB + 1)):
        refused = infer(api, "odd/added", ["a dog", f"this is {word}"])
        assert refused.status_code == 422
        assert f"text.1: the text holds '{word}'" in refused.text
        assert f"its id is {id_}" in refused.text
    reference = library(own, "odd/added")
    reference.max_seq_length = POSITIONS
    texts = ["a dog", "one two three " * 200]
    expected = reference.encode(texts, batch_size=1)
    assert cosines(embed(api, texts, "odd/added"), expected).min() > 0.99999
