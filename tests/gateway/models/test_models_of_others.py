"""Models that somebody else made, or made for something else, and more conversions than run at a time."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import transformers

from gateway.errors import Overloaded
from gateway.model_id import ModelId
from gateway.models.converter import MOST_WAITING, Progress, Turns
from tests.conftest import Server
from tests.support import tiny_models

LOAD = "/load_sentence_transformer_model"
LINES = {"Accept": "application/x-ndjson"}
THEIRS = 'name: "theirs"\nplatform: "tensorrt_plan"\n'


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("others")
    sources = root / "sources"
    plain = tiny_models.transformer_model(sources / "theirs")
    config = transformers.BertConfig.from_pretrained(plain)
    for name, kind in (
        ("masked", transformers.BertForMaskedLM),
        ("tagger", transformers.BertForTokenClassification),
    ):
        kind(config).save_pretrained(sources / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (sources / name / file).write_bytes((plain / file).read_bytes())
    for number in range(3):
        tiny_models.static_model(sources / f"static-{number}")
    (root / "repository" / "theirs" / "1").mkdir(parents=True)
    (root / "repository" / "theirs" / "config.pbtxt").write_text(THEIRS)
    (root / "repository" / "theirs" / "1" / "model.plan").write_text("theirs")
    settings = {"MODEL_SOURCES": str(sources), "MAX_CONVERSIONS": "1"}
    with Server(root / "repository", settings, root / "server.log").running() as server:
        yield server


def test_a_model_that_others_made_is_left_alone(own: Server, api: httpx.Client) -> None:
    directory = own.repository / "theirs"
    for route in (LOAD, "/unload_model", "/delete_model", LOAD):
        answer = api.post(route, json={"model_name": "theirs"})
        assert answer.status_code == 409
        assert "this server did not make theirs" in answer.json()["detail"]
        assert str(own.repository) not in answer.text
    assert (directory / "config.pbtxt").read_text() == THEIRS
    assert (directory / "1" / "model.plan").read_text() == "theirs"
    assert not (own.repository / ".state" / "models" / "theirs.json").exists()


@pytest.mark.slow
def test_a_masked_language_model_is_loaded_with_a_notice(own: Server, api: httpx.Client) -> None:
    answer = api.post(LOAD, json={"model_name": "masked"}, headers=LINES)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    notice = "it is no sentence-transformers model (BertForMaskedLM, no modules.json)"
    assert lines[-1]["message"].startswith(f"Model masked is loaded. Note: {notice}")
    assert any(notice in line["message"] for line in lines[:-1])
    assert notice in api.post(LOAD, json={"model_name": "masked"}).json()["message"]
    (shown,) = [m for m in api.get("/repository_models").json()["models"] if m["name"] == "masked"]
    assert notice in shown["notice"]
    assert notice in own.log.read_text()


def test_a_tagger_is_no_embedding_model(api: httpx.Client) -> None:
    answer = api.post(LOAD, json={"model_name": "tagger"})
    assert answer.status_code == 422
    assert "is a BertForTokenClassification and no embedding model" in answer.json()["detail"]


@pytest.mark.parametrize("revision", ["../../x", "a/../b", "a//b", "a/", "a/.b"])
def test_a_revision_that_leads_elsewhere(api: httpx.Client, revision: str) -> None:
    answer = api.post(LOAD, json={"model_name": "masked", "revision": revision})
    assert answer.status_code == 422
    assert "revision" in answer.json()["detail"]


@pytest.mark.slow
def test_conversions_wait_for_their_turn(own: Server) -> None:
    def load(number: int) -> list[str]:
        with own.client() as client:
            answer = client.post(LOAD, json={"model_name": f"static-{number}"}, headers=LINES)
            return [json.loads(line)["message"] for line in answer.text.splitlines()]

    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(load, range(3)))
    assert sorted(lines[-1] for lines in told) == [f"Model static-{n} is loaded." for n in range(3)]
    assert sum("Waiting for other conversions" in " ".join(lines) for lines in told) == 2


def test_more_than_may_wait_are_refused() -> None:
    asyncio.run(more_than_may_wait())


async def more_than_may_wait() -> None:
    turns, told = Turns(2), list[Progress]()
    done, begun, most = asyncio.Event(), 0, 0

    async def convert() -> None:
        nonlocal begun, most
        async with turns.one(ModelId("tiny"), told.append):
            begun += 1
            most = max(most, begun)
            await done.wait()
            begun -= 1

    tasks = [asyncio.create_task(convert()) for _ in range(2 + MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="conversions wait already") as refused:
        await convert()
    assert refused.value.retry_after
    assert len(told) == MOST_WAITING
    # One that gives up makes room for another.
    tasks.pop().cancel()
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(convert()))
    done.set()
    await asyncio.gather(*tasks)
    assert most == 2
