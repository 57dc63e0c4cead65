"""What a client sends after its request takes no answer's place."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from inference_store import http_server
from inference_store.http_server import Answer, HttpApplication

PATIENCE = 20.0


class Due(HttpApplication):
    """The store's HTTP, with an answer that waits until it is let go."""

    def __init__(self) -> None:
        super().__init__(None, 1 << 20)  # type: ignore[arg-type] # nothing is asked of it
        self.begun, self.let_go = threading.Event(), threading.Event()

    async def _answer(self, *_: object) -> Answer:
        self.begun.set()
        await asyncio.to_thread(self.let_go.wait, PATIENCE)
        return 200, b"{}", {}


@pytest.fixture
def application() -> Due:
    return Due()


@pytest.fixture
def port(application: Due, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(http_server, "HttpApplication", lambda *_: application)
    server, listening = http_server.http_server(None, "127.0.0.1:0", 0, 1)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        application.let_go.set()
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("more", [b"GET /more HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02", b"\r\n\r\n"])
def test_an_answer_that_is_due_is_not_replaced_by_a_refusal(port: int, application: Due, more: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert application.begun.wait(PATIENCE)
        connection.sendall(more)
        time.sleep(0.1)
        application.let_go.set()
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) == [b"200"]
    assert answer.endswith(b"{}")
