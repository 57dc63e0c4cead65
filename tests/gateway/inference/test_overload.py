"""More than the model can do: who is refused and how, who is dropped, and that the vectors stay right."""

import concurrent.futures
import json
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.loadtest.texts import BuiltInTexts
from tests.conftest import MINILM, Server
from tests.support.converted_models import CLIP
from tests.support.hostile_host import HostileHost
from tests.support.vectors import cosines, embed
from tests.support.waiting import wait_until

MANY = 2048
ROUTES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "/infer": lambda texts: {"model_name": MINILM, "text": texts},
    "/infer_text": lambda texts: {"model_name": MINILM, "text": texts},
    "/v1/embeddings": lambda texts: {"model": MINILM, "input": texts},
    "/embed_text": lambda texts: {"name": MINILM, "text": texts},
    f"/tei/{MINILM}/embed": lambda texts: {"inputs": texts},
    f"/tei/{MINILM}/embed_all": lambda texts: {"inputs": texts},
    f"/tei/{MINILM}/similarity": lambda texts: {
        "inputs": {"source_sentence": texts[0], "sentences": texts[1:]}
    },
    f"/weaviate/{MINILM}/vectorize": lambda texts: {"texts": texts},
}


def texts(number: int) -> list[str]:
    """New ones, so that no cache answers."""
    made = BuiltInTexts("glosses", random.randrange(1 << 30))
    return [made.text(serial) for serial in range(number)]


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    lines = client.get("/metrics", headers={"Accept": "text/plain"}).text.splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith((name + "{", name + " ")) and all(part in line for part in wanted)
    )


def waiting(client: httpx.Client) -> float:
    return metric(client, "embedding_queue_rows")


def computed(client: httpx.Client) -> int:
    """Rows that the model has computed."""
    return sum(model["inference_count"] for model in client.get("/metrics").json()["model_stats"])


@pytest.fixture(scope="module")
def server(converted_minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that refuses by the number of inputs that wait, however slow this machine is."""
    root = tmp_path_factory.mktemp("overload")
    shutil.copytree(converted_minilm, root / "repository")
    settings = {"LOAD_MODELS": MINILM, "MAX_QUEUE_SECONDS": "600"}
    with Server(root / "repository", settings, root / "server.log").running() as server:
        yield server


@pytest.fixture
def busy(client: httpx.Client, server: Server) -> Iterator[None]:
    """Bulk is under way, enough of it to outlast the test, and is dropped at the end."""
    bodies = [ROUTES["/infer_text"](texts(4096)) for _ in range(4)]
    connections = [sent(server, "/infer_text", body) for body in bodies]
    wait_until(lambda: waiting(client) > MANY)
    yield
    for connection in connections:
        connection.close()
    wait_until(lambda: waiting(client) == 0)


def sent(server: Server, route: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request has been sent, whose answer nobody reads."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST {route} HTTP/1.1\r\nHost: server\r\nContent-Length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.usefixtures("busy")
def test_what_would_wait_too_long_is_refused_as_each_api_words_it(client: httpx.Client) -> None:
    refused = metric(client, "embedding_rejected_requests_total", reason="overloaded")
    for route, body in ROUTES.items():
        answer = client.post(route, json=body(texts(MANY)))
        assert answer.status_code == 429, (route, answer.text[:200])
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        error = answer.json()
        if route.startswith("/v1"):
            assert (error["error"]["type"], error["error"]["code"]) == ("rate_limit_error", "overloaded")
        elif route.startswith("/tei"):
            assert error["error_type"] == "Overloaded"
        else:
            assert "queue is full" in error.get("detail", error.get("error"))
    now = metric(client, "embedding_rejected_requests_total", reason="overloaded")
    assert now == refused + len(ROUTES)


@pytest.mark.usefixtures("busy")
def test_bulk_keeps_no_single_waiting(client: httpx.Client) -> None:
    singles = texts(20)
    beside = [embed(client, text)[0] for text in singles]
    # Much less of the bulk was done than what was there before them.
    assert waiting(client) > MANY
    assert cosines(np.array(beside), embed(client, singles[:16] + singles[16:])).min() > 0.99999


@pytest.mark.usefixtures("busy")
def test_a_request_is_refused_if_its_own_time_limit_is_shorter_than_its_wait(client: httpx.Client) -> None:
    before = metric(client, "embedding_rejected_requests_total")
    routes = ("/infer_text", "/infer", "/v1/embeddings", "/embed_text")
    for route in routes:
        answer = client.post(route, json={**ROUTES[route](texts(512)), "timeout_ms": 10})
        # Until the rate is known it is let in, and its time is over while it waits.
        assert answer.status_code in (429, 504), answer.text[:200]
    assert metric(client, "embedding_rejected_requests_total") == before + len(routes)


def test_a_deadline_ends_the_wait(client: httpx.Client) -> None:
    """What waits before a rate is known, or waits longer than was predicted, is dropped when it is late."""
    before = metric(client, "embedding_rejected_requests_total", reason="deadline")
    body = ROUTES["/infer_text"](texts(4096))

    def is_late() -> bool:
        # Refused by its predicted wait while Triton still computes what others asked for before.
        return client.post("/infer_text", json={**body, "timeout_ms": 50}).status_code == 504

    wait_until(is_late)
    assert metric(client, "embedding_rejected_requests_total", reason="deadline") == before + 1


@pytest.mark.parametrize("timeout_ms", [0, -1, 120_001, 1.5, "5", True])
@pytest.mark.parametrize("route", ["/infer_text", "/infer", "/v1/embeddings", "/embed_text"])
def test_a_limit_that_cannot_be_kept_is_refused(client: httpx.Client, route: str, timeout_ms: object) -> None:
    answer = client.post(route, json={**ROUTES[route]("a dog"), "timeout_ms": timeout_ms})
    assert answer.status_code == 422
    assert "timeout" in answer.text


def test_a_limit_that_is_kept_changes_no_vector(client: httpx.Client) -> None:
    for inputs in (["a text with a limit"], texts(40)):
        answer = client.post("/infer_text", json={**ROUTES["/infer_text"](inputs), "timeout_ms": 60_000})
        assert cosines(np.array(answer.json()["embedding"]), embed(client, inputs)).min() > 0.99999


@pytest.mark.parametrize("route", ["/infer_text", "/embed_text"])
def test_what_clients_asked_for_that_went_away_is_not_computed(
    server: Server, client: httpx.Client, route: str
) -> None:
    before, gone = computed(client), metric(client, "embedding_http_requests_total", status="499")
    connections = [sent(server, route, ROUTES[route](texts(MANY))) for _ in range(6)]
    wait_until(lambda: waiting(client) > 4 * MANY)
    for connection in connections:
        connection.close()
    wait_until(lambda: waiting(client) == 0)
    embed(client, "the next request")
    assert computed(client) - before < 3 * MANY
    counted = gone + len(connections)
    wait_until(lambda: metric(client, "embedding_http_requests_total", status="499") == counted)


def test_images_of_clients_that_went_away_are_not_waited_for(
    clip_server: Server, api: httpx.Client, host: HostileHost
) -> None:
    gone = metric(api, "embedding_http_requests_total", status="499")
    body = {"model_name": CLIP, "image": [f"{host.url}/silence"]}
    connection = sent(clip_server, "/infer_image", body)
    wait_until(lambda: "/silence" in host.paths)
    time.sleep(0.1)
    connection.close()
    wait_until(lambda: metric(api, "embedding_http_requests_total", status="499") == gone + 1)


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
def test_every_vector_of_a_crowd_is_right(client: httpx.Client, server: Server) -> None:
    """Bulk, small ones and refusals mixed; what was answered is what each text gives alone."""
    pool = texts(60)
    alone = {text: embed(client, text)[0] for text in pool}

    def ask(number: int) -> list[int]:
        order, statuses = random.Random(number), []
        with server.client() as mine:
            for size in (1, 3, 16, 100, 4096):
                inputs = [order.choice(pool) for _ in range(size)]
                answer = mine.post("/infer_text", json=ROUTES["/infer_text"](inputs))
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    got = np.array(answer.json()["embedding"])
                    assert cosines(got, np.array([alone[text] for text in inputs])).min() > 0.9999
        return statuses

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        statuses = [status for some in threads.map(ask, range(4)) for status in some]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 12
