"""Loads sent from one process, against a small HTTP server."""

import json
import socket
import threading
import time
from array import array

import pytest

from benchmarks.loadtest.connection import head, with_body
from benchmarks.loadtest.loops import Address, closed_loop, given, open_loop, poisson
from benchmarks.loadtest.records import inference_ms
from tests.support.fake_embedding_server import Played, played


def texts_sent(server: Played, number: int) -> tuple[Address, list[bytes]]:
    address = ("127.0.0.1", server.server_port)
    start = head(address, "/embed", {"Content-Type": "application/json"})
    return address, [with_body(start, json.dumps({"text": f"text {i}"}).encode()) for i in range(number)]


def test_a_closed_loop_sends_each_request_once() -> None:
    with played() as server:
        address, requests = texts_sent(server, 30)
        outcome = closed_loop(address, given(requests), 4, 60)
        assert outcome.failure is None
        assert outcome.requests == 30
        assert sorted(server.texts()) == sorted(f"text {i}" for i in range(30))
        assert 0 < outcome.percentile(50) <= outcome.percentile(99)
        assert outcome.client_cpu_ms > 0


def test_the_rate_of_a_closed_loop_has_no_tail() -> None:
    """One of two connections is answered at once, the other after 2 s: each counts over its own time."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def serve(connection: socket.socket, seconds: float) -> None:
        with connection:
            connection.recv(4096)
            time.sleep(seconds)
            connection.sendall(answer)
            connection.recv(4096)

    def accept() -> None:
        for seconds in (0.0, 2.0):
            threading.Thread(target=serve, args=(listener.accept()[0], seconds)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        address = ("127.0.0.1", int(listener.getsockname()[1]))
        request = with_body(head(address, "/", {}), b"{}")
        outcome = closed_loop(address, given([request] * 2), 2, 60)
        accepting.join()
    assert outcome.requests == 2
    assert outcome.rate > 1.0


def test_a_closed_loop_ends_with_its_time() -> None:
    with played() as server:
        address, requests = texts_sent(server, 20_000)
        start = time.monotonic()
        outcome = closed_loop(address, given(requests), 2, 0.5)
        assert 0 < outcome.requests < 20_000
        assert time.monotonic() - start < 20


def test_one_failed_request_voids_a_load() -> None:
    with played() as server:
        server.fails = frozenset({3})
        address, requests = texts_sent(server, 10)
        outcome = closed_loop(address, given(requests), 2, 60, read=inference_ms)
        assert outcome.failure is not None
        assert "HTTP 503" in outcome.failure
        assert outcome.requests == 9


def test_a_server_that_is_away_voids_a_load() -> None:
    with played() as server:
        address, requests = texts_sent(server, 1)
    assert closed_loop(address, given(requests), 2, 1).failure
    assert open_loop(address, given(requests), array("d", [0.0])).failure


def test_an_open_loop_counts_from_the_moment_a_request_was_due() -> None:
    with played() as server:
        address, requests = texts_sent(server, 100)
        server.stall = (10, 0.5)
        outcome = open_loop(address, given(requests), array("d", [i / 200 for i in range(100)]))
        assert outcome.failure is None
        assert outcome.requests == 100
        assert outcome.percentile(99) > 200


def test_poisson_moments_keep_the_rate() -> None:
    moments = poisson(100, 5000, seed=1)
    assert list(moments) == sorted(moments)
    assert len(moments) / moments[-1] == pytest.approx(100, rel=0.1)
    assert moments == poisson(100, 5000, seed=1)
