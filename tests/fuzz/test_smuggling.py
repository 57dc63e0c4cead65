"""No body is taken for a request, whatever its head says: at the server itself and behind real proxies.

FUZZ_FRAMING: how many cases of the long run; FUZZ_SEED: which.
"""

import asyncio
import json
import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.application import around
from gateway.server.request_heads import without_upgrade
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from inference_store import http_server
from inference_store.http_routes import no_such_path
from inference_store.http_server import Answer, HttpApplication
from tests.fuzz.framing import digest, made
from tests.fuzz.proxies import haproxy, nginx
from tests.fuzz.smuggling import Attack, Echo, Report
from tests.support.http_server import serving_in_a_thread

SEED = int(os.environ.get("FUZZ_SEED", "0"))


class Parsed:
    """The first head of what is parsed."""

    def __init__(self, content: bytes) -> None:
        self.method, self.version, self.url = b"", "", b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.parser = httptools.HttpRequestParser(self)
        with suppress(httptools.HttpParserUpgrade, httptools.HttpParserError):
            self.parser.feed_data(content)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.method, self.version = self.parser.get_method(), self.parser.get_http_version()
        self.asks = self.parser.should_upgrade()
        raise ValueError  # no more


@given(st.randoms(use_true_random=False))
def test_a_head_written_anew_is_the_same(rng: random.Random) -> None:
    one = Parsed(made(rng, "a").content)
    if not one.method:
        return
    other = Parsed(without_upgrade(one.method, one.version, one.url, one.headers))
    assert (one.method, one.version, one.url) == (other.method, other.version, other.url)
    assert [header for header in one.headers if header[0] != b"upgrade"] == other.headers
    assert not other.asks or one.method == b"CONNECT"


def attacked(root: Path, cases: int) -> Report:
    echo = Echo()
    layers = around(echo, Settings(load_models=()), Shutdown(None, timeout=1, delay=0))
    with (
        serving_in_a_thread(layers, lifespan="off") as port,
        nginx(root, port) as one,
        haproxy(root, port) as other,
    ):
        ports = {"direct": port, **one, **other}
        report = asyncio.run(Attack(ports, "direct", echo, SEED).run(cases))
    counts = (
        f"cases {dict(report.cases)}, requests {dict(report.requests)}, victims' requests {report.victims}"
    )
    sys.stdout.write(f"{counts}, retried {report.retried}, faults {len(report.faults)}\n")
    sys.stdout.writelines(f"{fault[:400]}\n" for fault in report.faults)
    return report


class EchoStore(HttpApplication):
    """The store's HTTP, with these answers."""

    def __init__(self, echo: Echo) -> None:
        super().__init__(None, 64 << 20)  # type: ignore[arg-type] # nothing is asked of it
        self._echo = echo

    async def _answer(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if verb == "CONNECT":
            raise no_such_path(405)
        self._echo.done[path] += 1
        read = "" if path.startswith("/early/") else digest(body)
        more = {"x-path": path, "x-marks": headers.get("x-mark", "")}
        return 200, json.dumps({"body": read}).encode(), more


def attacked_store(cases: int, monkeypatch: pytest.MonkeyPatch) -> Report:
    echo = Echo()
    monkeypatch.setattr(http_server, "HttpApplication", lambda *_: EchoStore(echo))
    server, listening = http_server.http_server(None, "127.0.0.1:0", 0, 1)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        # What it takes more leniently, it must take as the standard says: as a proxy does.
        port = listening.getsockname()[1]
        # h11 refuses empty lines before a request.
        return asyncio.run(Attack({"store": port}, "", echo, SEED, between=b"").run(cases))
    finally:
        server.should_exit = True
        thread.join()


def test_the_store_takes_no_body_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attacked_store(300, monkeypatch).faults == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_store_takes_no_body_for_a_request_in_twenty_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert attacked_store(int(os.environ.get("FUZZ_FRAMING", "20000")), monkeypatch).faults[:20] == []


def test_some_hundred_bodies_that_hide_requests(tmp_path: Path) -> None:
    report = attacked(tmp_path, 600)
    assert report.faults == []
    assert report.victims > 10
    assert report.retried < 10


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_bodies_that_hide_requests(tmp_path: Path) -> None:
    report = attacked(tmp_path, int(os.environ.get("FUZZ_FRAMING", "100000")))
    assert report.faults[:20] == []
