"""Where the server can be reached: the warning of an open one, and TLS."""

import asyncio
import json
import logging
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest
import trustme
import uvicorn

from gateway.server.exposure import listening_addresses, warn_when_open
from gateway.settings import Settings
from tests.conftest import Server
from tests.support.waiting import wait_until

OPEN = "NO KEY IS ASKED FOR"


async def listening_on(*addresses: str) -> uvicorn.Server:
    """A server of uvicorn's that listens, as after its start."""
    server = uvicorn.Server(uvicorn.Config("app:app"))
    server.servers = [await asyncio.start_server(lambda *_: None, address, 0) for address in addresses]
    return server


def test_sockets_that_listen_are_found() -> None:
    async def run() -> None:
        server = await listening_on("127.0.0.7", "::1")
        with socket.socket() as other:
            other.bind(("127.0.0.8", 0))
            other.listen()
            assert listening_addresses(server) == {"127.0.0.7", "::1"}
            # As uvicorn takes a descriptor that a supervisor gives it.
            given = socket.fromfd(other.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
            server.servers.append(await asyncio.start_unix_server(lambda *_: None, sock=given))
            assert "127.0.0.8" in listening_addresses(server)
        for one in server.servers:
            one.close()

    asyncio.run(run())


def test_an_empty_host_is_all_addresses_and_a_host_of_ipv6_is_ipv6_alone() -> None:
    """As docs/guides/deployment.md says of HOST."""

    async def run() -> None:
        both, one = await listening_on(""), await listening_on("::")
        assert listening_addresses(both) == {"0.0.0.0", "::"}
        [listening] = one.servers[0].sockets
        assert listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        for server in (both, one):
            server.servers[0].close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("address", "settings", "warns"),
    [
        ("0.0.0.0", {}, "use, load and delete"),
        ("0.0.0.0", {"admin_api_keys": ("a",)}, "embed with"),
        ("0.0.0.0", {"api_keys": ("e",)}, ""),
        ("127.0.0.1", {}, ""),
    ],
)
def test_only_an_open_server_on_another_address_warns(
    address: str,
    settings: dict[str, tuple[str, ...]],
    warns: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.server.exposure.LISTENING_SECONDS", 0.01)

    async def run() -> None:
        server = await listening_on(address)
        warn_when_open(Settings(load_models=(), **settings), server)  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        server.servers[0].close()

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert (OPEN in caplog.text) == bool(warns)
    assert warns in caplog.text


def test_uvicorns_options_give_tls_and_an_open_server_warns(tmp_path: Path) -> None:
    ca = trustme.CA()
    made = ca.issue_cert("127.0.0.1")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made.private_key_pem.write_to_path(str(key))
    made.cert_chain_pems[0].write_to_path(str(certificate))
    trusting = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    tls = ("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    server = Server(tmp_path / "repository", {"HOST": "0.0.0.0"}, tmp_path / "server.log", ("app.py", *tls))
    server.start()
    try:
        url = server.url.replace("http:", "https:")
        with httpx.Client(base_url=url, verify=trusting, trust_env=False) as client:
            wait_live(client)
            assert client.get("/health/live").json() == {"status": "ok"}
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/health/live", trust_env=False)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{server.url}/health/live", trust_env=False)
        wait_until(lambda: OPEN in server.log.read_text())
    finally:
        server.stop()
    assert str(tmp_path) not in server.log.read_text()


def test_uvicorn_by_hand_warns_and_logs_the_same(tmp_path: Path) -> None:
    by_hand = ("-m", "uvicorn", "app:app", "--host", "0.0.0.0", "--port", "{port}")
    server = Server(tmp_path / "repository", {"LOG_FORMAT": "json"}, tmp_path / "server.log", by_hand)
    server.start()
    try:
        with server.client() as client:
            wait_live(client)
            client.get("/model_embedding_size?name=a-name-of-a-user")
        wait_until(lambda: OPEN in server.log.read_text())
    finally:
        server.stop()
    said = server.log.read_text()
    assert "a-name-of-a-user" not in said
    # Of the lines before the application is imported, uvicorn decides.
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert "uvicorn.error" in {line["logger"] for line in lines}
    assert len(said.splitlines()) - len(lines) <= 1


def wait_live(client: httpx.Client, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if client.get("/health/live").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("it does not answer")
