"""`/health` tells the truth whatever hangs or dies; a fault of one model does not affect others."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest

from gateway.health.probe import Probe, WrongVector
from tests.conftest import Server
from tests.faults.conftest import BERT, OTHER, Farm, vectors, wait_loaded
from tests.faults.processes import stub_of, triton_of
from tests.support.vectors import cosines
from tests.support.waiting import wait_until
from triton_models.client.client import TritonClient
from triton_models.repository.repository import Repository
from triton_models.server.embedded import state_directory

SERVED = "tiny_bert"
ASK = {"model_name": OTHER, "text": "a river"}


@pytest.fixture(scope="module")
def two(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server with two models."""
    server = farm.server(tmp_path_factory.mktemp("two"), REQUEST_TIMEOUT="120")
    with server.running():
        wait_loaded(server)
        yield server


def health(client: httpx.Client) -> httpx.Response:
    answer = client.get("/health")
    if answer.status_code != 200:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    return answer


def not_serving(client: httpx.Client) -> dict[str, str]:
    """Return the models that do not serve by `/health`, while others do."""
    answer = health(client)
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json().get("not_serving", {})
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_model_s_process_is_replaced_and_the_others_serve_on(two: Server, number: signal.Signals) -> None:
    expected, before = vectors(two), triton_of(two).pid
    with two.client() as client:
        stub_of(two, SERVED).send_signal(number)

        def noticed() -> bool:
            assert client.post("/infer_text", json=ASK).status_code == 200
            return SERVED in not_serving(client)

        wait_until(noticed)
        states = {model["name"]: model for model in client.get("/repository_models").json()["models"]}
        assert states[SERVED]["reason"]
        # What is known not to answer is not asked, and says so at once.
        answer = client.post("/infer_text", json={"model_name": BERT, "text": "a"})
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        wait_until(lambda: not noticed(), seconds=60)
        assert cosines(vectors(two), expected).min() >= 0.99999
    assert triton_of(two).pid == before


def test_a_triton_that_hangs_is_noticed_and_replaced(two: Server) -> None:
    expected, hung = vectors(two), triton_of(two)
    with two.client() as client:
        hung.suspend()
        wait_until(lambda: health(client).status_code == 503)
        assert client.get("/health/live").status_code == 200
        answer = client.post("/infer_text", json=ASK)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        wait_until(lambda: health(client).status_code == 200 and not not_serving(client), seconds=60)
        assert cosines(vectors(two), expected).min() >= 0.99999
    assert triton_of(two).pid != hung.pid


def computed(client: httpx.Client) -> tuple[int, int]:
    """Return how many of BERT's requests were computed, and how many came from the cache."""
    stats = client.get("/metrics").json()["model_stats"]
    model = next(one for one in stats if one["name"] == SERVED)["inference_stats"]
    hits = model["cache_hit"]["count"]
    return model["success"]["count"] - hits, hits


def test_an_idle_model_is_asked_past_the_cache_and_a_busy_one_is_not(two: Server) -> None:
    with two.client() as client:
        before = computed(client)
        time.sleep(3)
        after = computed(client)
        assert after[0] > before[0]
        assert after[1] == before[1]
        # Each text another: as many requests computed as were sent.
        for number in range(200):
            client.post("/infer_text", json={"model_name": BERT, "text": f"number {number}"})
        assert computed(client)[0] - after[0] <= 200 + 3


def test_a_probe_holds_the_answer_to_the_reference(two: Server) -> None:
    address = json.loads((state_directory(two.repository) / "server.json").read_text())["grpc"]
    probe = Probe.read(Repository(two.repository), SERVED)
    wrong = probe.expected.copy()
    wrong[0, 0] += np.float32(0.1)

    async def run() -> None:
        async with TritonClient(address) as client:
            await probe.ask(client, 10)
            with pytest.raises(WrongVector, match="cosine"):
                await replace(probe, expected=wrong).ask(client, 10)

    asyncio.run(run())
