"""One body, one request: upgrades are ignored, and what could be read in two ways is refused."""

import re
import socket
import time
from collections.abc import Iterator

import pytest

from gateway.application import around
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from tests.gateway.server.test_http_protocol import Application, connected, rest
from tests.support.http_server import serving_in_a_thread

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
H2C = (
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
)
"""As Java's HttpClient sends it by default, and `curl --http2`."""

LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def port(application: Application) -> Iterator[int]:
    layers = around(application, Settings(load_models=()), Shutdown(None, timeout=1, delay=0))
    with serving_in_a_thread(layers, lifespan="off") as port:
        yield port


def statuses(answer: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)


def sent(port: int, *pieces: bytes) -> bytes:
    """All that comes back for what is sent piece by piece."""
    with connected(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, piece in enumerate(pieces):
            if number:
                time.sleep(0.003)
            try:
                connection.sendall(piece)
            except (ConnectionResetError, BrokenPipeError):
                break
        return rest(connection)


def with_upgrade(headers: bytes, body: bytes = HIDDEN, chunked: bool = False) -> bytes:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return b"POST /it HTTP/1.1\r\nHost: a\r\n" + headers + framing + b"\r\n\r\n" + content


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "headers",
    [
        H2C,
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhl\r\n",
        b"Connection: keep-alive, upgrade\r\nUpgrade: TLS/1.2, foo/9\r\nExpect: 100-continue\r\n",
        b"Upgrade: foo\r\nProxy-Connection: upgrade\r\n",
        b"Upgrade: foo\r\n",
    ],
    ids=["h2c", "websocket", "any", "proxy", "alone"],
)
def test_an_upgrade_is_ignored_and_the_body_read(
    port: int, application: Application, headers: bytes, chunked: bool
) -> None:
    content = with_upgrade(headers, chunked=chunked)
    answer = sent(port, content + content + LAST)
    assert [one for one in statuses(answer) if one != b"100"] == [b"200"] * 3
    assert application.asked == [("POST", "/it", HIDDEN)] * 2 + [("GET", "/last", b"")]


def test_wherever_it_is_cut(port: int, application: Application) -> None:
    content = with_upgrade(H2C) + with_upgrade(b"Upgrade: a\r\nConnection: upgrade\r\n", chunked=True) + LAST
    expected = [("POST", "/it", HIDDEN)] * 2 + [("GET", "/last", b"")]
    for cut in range(1, len(content)):
        application.asked.clear()
        assert statuses(sent(port, content[:cut], content[cut:])) == [b"200"] * 3, cut
        assert application.asked == expected, cut


def test_byte_by_byte(port: int, application: Application) -> None:
    content = with_upgrade(H2C, chunked=True) + LAST
    answer = sent(port, *(content[place : place + 1] for place in range(len(content))))
    assert statuses(answer) == [b"200"] * 2
    assert application.asked == [("POST", "/it", HIDDEN), ("GET", "/last", b"")]


def test_an_upgrade_keeps_its_close(port: int, application: Application) -> None:
    headers = b"Upgrade: h2c\r\nConnection: upgrade, close\r\n"
    answer = sent(port, with_upgrade(headers) + LAST)
    assert statuses(answer) == [b"200"]
    assert b"connection: close" in answer
    assert application.asked == [("POST", "/it", HIDDEN)]


GOOD = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"
REFUSED: dict[str, tuple[bytes, bytes]] = {
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b"400"),
    "no host": (b"GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n", b"400"),
    "CONNECT": (b"CONNECT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\n\r\n" + HIDDEN, b"501"),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"505"),
    "both lengths": (POST + CHUNKED + b"Content-Length: 3\r\n\r\n" + CHUNKS, b"400"),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", b"400"),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", b"400"),
    "identity": (POST + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS, b"501"),
    "gzip": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, b"501"),
    "after chunked": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS, b"400"),
    "before chunked": (POST + b"Transfer-Encoding: identity\r\n" + CHUNKED + b"\r\n" + CHUNKS, b"501"),
    "old": (b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n" + CHUNKED + b"\r\n" + CHUNKS, b"400"),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", b"400"),
    "folded": (POST + b"Content-Length:\r\n 3\r\n\r\nabc", b"400"),
    "a chunk's LF": (POST + CHUNKED + b"\r\n3\nabc\r\n0\r\n\r\n", b"400"),
    "an extension's LF": (POST + CHUNKED + b"\r\n3;a\nabc\r\n0\r\n\r\n", b"400"),
}


@pytest.mark.parametrize("upgrade", [b"", b"Upgrade: a\r\nConnection: upgrade\r\n"], ids=["", "upgrade"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused_after_the_answers_before_it(
    port: int, application: Application, name: str, upgrade: bytes
) -> None:
    content, status = REFUSED[name]
    if upgrade:
        line, end, headers = content.partition(b"\r\n")
        content = line + end + upgrade + headers
    answer = sent(port, GOOD + content + HIDDEN + LAST)
    assert statuses(answer) in ([b"200", status], [b"200", b"400"] if upgrade else [])
    assert answer.count(b"connection: close") == 1
    assert [path for _, path, _ in application.asked] == ["/first"]


def test_a_request_by_head_is_refused_without_a_body(port: int) -> None:
    assert sent(port, b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 36\r\n", CHUNKED], ids=["length", "chunked"])
def test_a_response_in_place_of_100_continue_is_the_last(port: int, framing: bytes) -> None:
    """The client need not send the body then, and the server would take its next request for it."""
    answer = sent(port, b"POST /early HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + framing + b"\r\n")
    assert statuses(answer) == [b"200"]
    assert b"\r\nconnection: close\r\n" in answer


def test_trailers_are_no_headers(port: int, application: Application) -> None:
    trailers = b"3\r\nabc\r\n0\r\nX-Forwarded-For: 9.9.9.9\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"
    assert statuses(sent(port, POST + CHUNKED + b"\r\n" + trailers + LAST)) == [b"200"] * 2
    assert "x-forwarded-for" not in application.headers[0]


def test_a_trailer_that_ends_the_connection_ends_it(port: int) -> None:
    """The parser takes nothing more, so that what came after would never be answered."""
    answer = sent(port, POST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\nConnection: close\r\n\r\n", LAST)
    assert statuses(answer) == [b"200"]
    assert b"connection: close" in answer


@pytest.mark.parametrize("piece", [b"X: " + b"y" * 50_000 + b"\r\n", b"z" * 50_000], ids=["many", "one"])
def test_trailers_have_an_end(port: int, piece: bytes) -> None:
    start = POST + CHUNKED + b"\r\n3\r\nabc\r\n0\r\nX: "
    assert b"too much besides" in sent(port, start, *([piece] * 200))


def test_small_chunks_are_no_trailers(port: int, application: Application) -> None:
    chunks = b"1;a=bcdef\r\nx\r\n" * 200_000
    assert statuses(sent(port, POST + CHUNKED + b"\r\n" + chunks + b"0\r\n\r\n" + LAST)) == [b"200"] * 2
    assert application.asked[0] == ("POST", "/", b"x" * 200_000)


class TestWithUvicornSOwnConnections:
    """`uvicorn app:app` without --http: nothing is looked at after a body that was lost."""

    @pytest.fixture
    def port(self, application: Application) -> Iterator[int]:
        layers = around(application, Settings(load_models=()), Shutdown(None, timeout=1, delay=0))
        with serving_in_a_thread(layers, lifespan="off", http="httptools") as port:
            yield port

    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("body", [HIDDEN, b"\r\n" * 300_000 + HIDDEN], ids=["small", "large"])
    def test_no_body_is_taken_for_a_request(
        self, port: int, application: Application, body: bytes, chunked: bool
    ) -> None:
        content = with_upgrade(H2C, body, chunked)
        place = content.index(b"\r\n\r\n") + 4
        answer = sent(port, content[:place], content[place:], LAST)
        assert statuses(answer) == [b"400"]
        assert b"connection: close" in answer
        assert application.asked == []

    def test_no_request_after_an_upgrade_is_read_from_its_middle(
        self, port: int, application: Application
    ) -> None:
        upgrade = b"GET /first HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n"
        answer = sent(port, upgrade + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\n", HIDDEN)
        assert statuses(answer) == [b"200"]
        assert application.asked == [("GET", "/first", b"")]

    def test_connect_is_refused(self, port: int, application: Application) -> None:
        head = b"CONNECT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\n"
        assert statuses(sent(port, head, HIDDEN)) == [b"400"]
        assert application.asked == []
