"""SIGTERM and SIGINT under load: the end is announced, accepted requests finish, and no process is left."""

import asyncio
import http.client
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests.conftest import Server
from tests.faults.conftest import BERT, FEW, Farm, vectors, wait_loaded
from tests.faults.processes import end_of, family
from tests.support import tiny_models
from tests.support.vectors import cosines
from tests.support.waiting import wait_until

LOAD = "/load_sentence_transformer_model"
WORKERS = ("-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2")
BUSY = {"model_name": BERT, "text": [f"a text of some length, number {number}" for number in range(1024)]}


class Clients:
    """Sends requests over kept connections until they are refused, and judges every answer."""

    def __init__(self, server: Server, expected: NDArray[np.float32], connections: int = 8) -> None:
        self._server = server
        self._expected = expected
        self._connections = connections
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Run until all connections have been refused."""
        asyncio.run(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(self._connections)))

    async def _one(self) -> None:
        async with httpx.AsyncClient(base_url=self._server.url, timeout=60, trust_env=False) as client:
            while True:
                try:
                    answer = await client.post("/infer_text", json={"model_name": BERT, "text": FEW})
                except httpx.ConnectError:
                    self.answers["closed"] += 1
                    return
                except httpx.HTTPError as error:
                    self.wrong.append(repr(error))
                    return
                self.answers[str(answer.status_code)] += 1
                if answer.status_code == 503:
                    if answer.headers["connection"] != "close" or "shutting down" not in answer.text:
                        self.wrong.append(answer.text)
                    return
                if answer.status_code != 200:
                    self.wrong.append(answer.text)
                    return
                lowest = cosines(np.array(answer.json()["embedding"]), self._expected).min()
                if lowest < 0.99999:
                    self.wrong.append(f"cosine {lowest}")


@contextmanager
def begun(server: Server) -> Iterator[list[psutil.Process]]:
    """Start a server, wait until it is healthy, and yield its processes."""
    server.start()
    try:
        server.wait_healthy()
        wait_loaded(server)
        yield family(server)
    finally:
        server.stop()


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("arguments", "number"),
    [((), signal.SIGTERM), ((), signal.SIGINT), (WORKERS, signal.SIGTERM)],
    ids=["SIGTERM", "SIGINT", "workers"],
)
def test_what_was_accepted_is_answered(
    farm: Farm, tmp_path: Path, arguments: tuple[str, ...], number: signal.Signals
) -> None:
    server = farm.server(tmp_path, *arguments)
    with begun(server) as processes:
        clients = Clients(server, vectors(server))
        asking = in_background(clients.run)
        large: list[httpx.Response] = []
        with server.client() as client:
            wait_until(lambda: clients.answers["200"] > 20)
            sending = in_background(lambda: large.append(client.post("/infer_text", json=BUSY)))
            time.sleep(0.1)
            server.signal(number)
            assert server.process is not None
            sending.join()
            asking.join()
        server.process.wait(40)
        assert clients.wrong == []
        assert large[0].status_code == 200, large[0].text
        assert len(large[0].json()["embedding"]) == len(BUSY["text"])
        assert end_of(processes) == []


@pytest.mark.slow
def test_who_owns_triton_waits_for_what_others_accepted(farm: Farm, tmp_path: Path) -> None:
    """Two gateways share a Triton; the one that does not own it is still receiving a request's body."""
    owner = farm.server(tmp_path)
    other = Server(owner.repository, owner.environment, tmp_path / "other.log")
    content = json.dumps({"model_name": BERT, "text": FEW}).encode()
    with begun(owner) as processes, begun(other):
        expected = vectors(other)
        request = http.client.HTTPConnection("127.0.0.1", other.port, timeout=60)
        request.putrequest("POST", "/infer_text")
        request.putheader("Content-Length", str(len(content)))
        request.endheaders(content[:20])
        # A request that came after it was answered, so this one has been accepted.
        vectors(other)
        owner.signal()
        # A signal to all comes to one a little later.
        time.sleep(0.3)
        other.signal()
        # By then an owner that waits for nobody has ended, and Triton with it.
        time.sleep(2.5)
        request.send(content[20:])
        answer = request.getresponse()
        found = json.loads(answer.read())
        request.close()
        assert answer.status == 200, found
        assert cosines(np.array(found["embedding"]), expected).min() >= 0.99999
        for server in (owner, other):
            assert server.process is not None
            server.process.wait(40)
        assert end_of(processes) == []


def test_health_is_503_while_requests_are_served(farm: Farm, tmp_path: Path) -> None:
    server = farm.server(tmp_path, SHUTDOWN_DELAY="1.5")
    with begun(server) as processes, server.client() as client:
        expected = vectors(server)
        server.signal()
        time.sleep(0.2)
        answer = client.get("/health")
        assert answer.status_code == 503
        assert "shutting down" in answer.json()["detail"]
        assert client.get("/health/live").status_code == 200
        # On the connection that exists, and on a new one.
        assert cosines(vectors(server), expected).min() >= 0.99999
        assert client.post("/infer_text", json={"model_name": BERT, "text": "a"}).status_code == 200
        assert server.process is not None
        server.process.wait(20)
        assert end_of(processes) == []


def test_a_request_that_takes_too_long_is_answered_503(farm: Farm, tmp_path: Path) -> None:
    server = farm.server(tmp_path, SHUTDOWN_TIMEOUT="1")
    with begun(server) as processes, socket.create_connection(("127.0.0.1", server.port)) as slow:
        # It has sent its headers and not its body.
        slow.sendall(b"POST /infer_text HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        server.signal()
        slow.settimeout(20)
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"connection: close" in answer.lower()
        assert server.process is not None
        server.process.wait(20)
        assert end_of(processes) == []


def test_a_conversion_is_ended_and_its_caller_told(farm: Farm, tmp_path: Path) -> None:
    tiny_models.transformer_model(tmp_path / "sources" / "ended" / "conversion")
    server = farm.server(tmp_path, MODEL_SOURCES=f"{farm.stock.sources}:{tmp_path / 'sources'}")
    with begun(server), server.client() as client:
        answers: list[httpx.Response] = []
        loading = in_background(
            lambda: answers.append(
                client.post("/load_sentence_transformer_model", json={"model_name": "ended/conversion"})
            )
        )
        while not (converters := family(server, "-m converters")):
            time.sleep(0.01)
        server.signal()
        loading.join()
        assert server.process is not None
        server.process.wait(20)
        assert answers[0].status_code == 503
        assert "shutting down" in answers[0].json()["detail"]
        assert end_of(converters) == []
    server.start()
    server.wait_healthy()
    with server.client() as client:
        states = {model["name"]: model for model in client.get("/repository_models").json()["models"]}
        assert "ended_conversion" not in states
    server.stop()


def test_a_second_signal_ends_at_once(farm: Farm, tmp_path: Path) -> None:
    server = farm.server(tmp_path)
    with begun(server) as processes, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /infer_text HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.2)
        server.signal()
        time.sleep(2.5)
        assert server.process is not None
        assert server.process.poll() is None
        server.signal()
        assert server.process.wait(5) == -signal.SIGTERM
        assert end_of(processes) == []
