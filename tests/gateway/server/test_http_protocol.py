"""Connections whose clients stall, or send heads without end: a real server with little patience."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from gateway.application import around
from gateway.server import http_protocol, lingering_close
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from tests.support.http_server import serving_in_a_thread

PATIENCE = 0.4
END = 20.0
"""Seconds by which a connection is surely ended, on a machine that is busy."""

ANSWER = 64 << 20


class Application:
    """Answers how long the body was, or with much."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.asked: list[tuple[str, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.pause_before = self.pause = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await asyncio.sleep(self.pause_before)
        if scope["path"] == "/early":
            await PlainTextResponse("too early" * 1000)(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            self.gone.set()
            return
        await asyncio.sleep(self.pause)
        text = "x" * ANSWER if scope["path"] == "/much" else str(len(body))
        self.asked.append((scope["method"], scope["path"], body))
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await PlainTextResponse(text)(scope, receive, send)


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def port(application: Application, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(http_protocol, "POLL_SECONDS", PATIENCE)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", PATIENCE)
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 8 * PATIENCE)
    monkeypatch.setattr(lingering_close, "LINGER_SECONDS", 8 * PATIENCE)
    layers = around(application, Settings(load_models=()), Shutdown(None, timeout=1, delay=0))
    with serving_in_a_thread(layers, lifespan="off") as port:
        yield port


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=END) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def sent_until_closed(connection: socket.socket, piece: bytes, pause: float = 0.0) -> int:
    """Send a header that does not end; how many bytes of it the server let come."""
    connection.sendall(b"GET / HTTP/1.1\r\nA: ")
    sent, began = 0, time.monotonic()
    try:
        while time.monotonic() - began < END:
            sent += connection.send(piece)
            time.sleep(pause)
    except (ConnectionResetError, BrokenPipeError):
        return sent
    raise AssertionError(f"still open after {sent} bytes")


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n",
        b"POST /infer HT",
        b"POST /infer HTTP/1.1\r\nHost: a\r\nA: b\r\n",
        b"GET / HTTP/1.1\r\nA: ",
    ],
)
def test_a_head_that_does_not_end_in_time_ends_the_connection(port: int, sent: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(sent)
        assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(port: int) -> None:
    with connected(port) as connection:
        assert rest(connection) == b""


def test_a_head_that_comes_byte_by_byte_is_as_late(port: int) -> None:
    with connected(port) as connection:
        assert sent_until_closed(connection, b"b", pause=0.02) < END / 0.02


def test_empty_lines_after_an_answer_hold_nothing(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\n")
        assert b"408" in rest(connection)


def test_a_body_that_stalls_ends_the_request(port: int, application: Application) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"too slowly" in answer
        assert application.gone.wait(END)


def test_a_body_that_comes_steadily_is_taken(port: int) -> None:
    size, pieces = 120_000, 24
    with connected(port) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
        )
        for _ in range(pieces):
            connection.sendall(b"x" * (size // pieces))
            time.sleep(PATIENCE / 8)
        assert rest(connection).endswith(str(size).encode())


def test_a_body_that_comes_byte_by_byte_is_late(port: int, application: Application) -> None:
    with connected(port) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        with suppress(ConnectionResetError, BrokenPipeError):
            while not application.gone.is_set():
                connection.sendall(b"x")
                time.sleep(0.02)
        assert application.gone.wait(END)


def test_a_body_that_the_server_does_not_read_is_not_late(port: int, application: Application) -> None:
    size = 2 << 20
    with connected(port) as connection:
        application.pause_before = 16 * PATIENCE
        head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size
        connection.sendall(head + b"x" * size)
        assert rest(connection).endswith(str(size).encode())


def test_a_line_end_after_a_request_is_no_request(port: int, application: Application) -> None:
    with connected(port) as connection:
        application.pause = PATIENCE
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(PATIENCE / 4)
        connection.sendall(b"\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.settimeout(5 * PATIENCE)
        with pytest.raises(TimeoutError):
            connection.recv(1000)


def test_a_request_sent_ahead_has_its_time_after_the_answer_before_it(
    port: int, application: Application
) -> None:
    with connected(port) as connection:
        application.pause = 2 * PATIENCE
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        application.pause = 0.0
        connection.sendall(b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_takes_is_thrown_away(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /much HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(4 * PATIENCE)
        assert len(rest(connection)) < ANSWER


def test_an_answer_that_is_taken_slowly_comes_whole(port: int) -> None:
    taken = 0
    with connected(port) as connection:
        connection.sendall(b"GET /much HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while part := connection.recv(8 << 20):
            taken += len(part)
            time.sleep(PATIENCE / 20)
    assert taken > ANSWER


def test_waiting_between_requests_is_no_stalling(port: int) -> None:
    with connected(port) as connection:
        for _ in range(3):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(3 * PATIENCE)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"A: " + b"b" * (1 << 20), b"431"),
        (b"\r\n".join(b"A%d: b" % number for number in range(10_000)), b"431"),
        (b"\r\n".join(b"A%d: b" % number for number in range(101)), b"431"),
        (b"A: " + b"b" * 40_000, b"431"),
        (b"A: " + b"b" * 20_000, b"200"),
        (b"\r\n".join(b"A%d: b" % number for number in range(90)), b"200"),
    ],
    ids=["1 MB", "10,000", "101", "40 kB", "20 kB", "90"],
)
def test_headers_are_limited(port: int, head: bytes, status: bytes) -> None:
    with connected(port) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + head + b"\r\n\r\n")
        except (ConnectionResetError, BrokenPipeError):
            # Refused while it was sent; what was answered may be lost with it.
            return
        assert rest(connection).split()[1:2] in ([status], [] if status == b"431" else [status])


def test_a_head_without_end_is_refused_before_it_has_grown(port: int) -> None:
    with connected(port) as connection:
        assert sent_until_closed(connection, b"b" * 65536) < lingering_close.LINGER_BYTES + (64 << 20)


@pytest.mark.parametrize(("length", "status"), [(8000, b"200"), (9000, b"414"), (30_000, b"414")])
def test_the_url_is_limited(port: int, length: int, status: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(b"GET /?q=" + b"x" * length + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = rest(connection)
        assert answer.split()[1] == status
        assert b"x-request-id" in answer


def test_the_body_before_a_head_does_not_count_as_head(port: int) -> None:
    with connected(port) as connection:
        body = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
        connection.sendall(body + b"GET /b HTTP/1.1\r\nHost: a\r\n")
        time.sleep(0.2)
        connection.sendall(b"Connection: close\r\n\r\n")
        assert rest(connection).count(b"HTTP/1.1 200 OK") == 2


EARLY = [
    b"POST /early HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (9 << 20),
    b"POST /early HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % (9 << 20),
    b"POST /early HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n",
    b"POST /early HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
    b"POST /infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000,
]


@pytest.mark.parametrize("head", EARLY)
def test_a_client_that_is_still_sending_reads_the_response(port: int, head: bytes) -> None:
    """Closed with unread data, a connection is reset: a proxy made 502 of it."""
    with connected(port) as connection:
        connection.sendall(head)
        time.sleep(0.2)
        for _ in range(3):
            connection.sendall(b"x" * (1 << 18))
            time.sleep(0.1)
        answer = rest(connection)
        status = b" 200 OK" if b"/early" in head else b" 4"
        assert answer.startswith(b"HTTP/1.1" + status)
        assert b"too early" * 1000 in answer or b'{"detail"' in answer
        # The server has ended its side and closes soon.
        with suppress(ConnectionResetError, BrokenPipeError):
            began = time.monotonic()
            while time.monotonic() - began < END:
                connection.sendall(b"x")
                time.sleep(0.1)
            pytest.fail("still open")
