"""A real Triton that asks for certificates and for a secret header, as one on a network should."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme

from tests.conftest import Server, free_port
from tests.support.tiny_repository import LOAD_SECONDS, install
from tests.support.waiting import wait_until
from triton_models.client.channel import ChannelOptions
from triton_models.client.client import TritonClient
from triton_models.client.errors import TritonError, TritonUnavailable
from triton_models.repository.repository import Repository
from triton_models.server.binary import find_triton

SECRET = "a-secret-of-the-operator"
HEADER = ("triton-grpc-protocol-admin-key", SECRET)
PROTOCOLS = "model-repository,inference,statistics,metadata,health"


@dataclass(frozen=True)
class Guarded:
    url: str
    repository: Repository
    access: ChannelOptions
    ca: Path
    key: Path
    certificate: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    root = tmp_path_factory.mktemp("guarded")
    ca = trustme.CA()
    server, client = ca.issue_cert("127.0.0.1"), ca.issue_cert("client.example")
    files = {name: root / f"{name}.pem" for name in ("ca", "server-key", "server", "key", "certificate")}
    ca.cert_pem.write_to_path(str(files["ca"]))
    server.private_key_pem.write_to_path(str(files["server-key"]))
    server.cert_chain_pems[0].write_to_path(str(files["server"]))
    client.private_key_pem.write_to_path(str(files["key"]))
    client.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    repository = Repository(root / "models")
    install(repository, "m", 1)
    binary, port = find_triton(root / "backends"), free_port()
    command = [
        str(binary.server),
        f"--model-repository={repository.root}",
        f"--backend-directory={binary.backends}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={files['server']}",
        f"--grpc-server-key={files['server-key']}",
        f"--grpc-root-cert={files['ca']}",
        f"--grpc-restricted-protocol={PROTOCOLS}:admin-key={SECRET}",
        "--exit-timeout-secs=5",
    ]
    access = ChannelOptions(
        files["ca"].read_bytes(), files["key"].read_bytes(), files["certificate"].read_bytes(), (HEADER,)
    )
    with (root / "triton.log").open("wb") as log:
        process = subprocess.Popen(command, env=binary.environment, stdout=log, stderr=log)
    try:
        made = Guarded(
            f"127.0.0.1:{port}", repository, access, files["ca"], files["key"], files["certificate"]
        )
        ask(made, access, wait_ready)
        yield made
    finally:
        process.terminate()
        process.wait(30)


def ask(triton: Guarded, access: ChannelOptions, work: Callable[[TritonClient], Awaitable[object]]) -> object:
    async def run() -> object:
        async with TritonClient(triton.url, access=access) as client:
            return await work(client)

    return asyncio.run(run())


async def wait_ready(client: TritonClient) -> None:
    for _ in range(300):
        if await client.server_ready(1.0):
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not ready")


def test_with_certificates_and_header_everything_works(guarded: Guarded) -> None:
    async def work(client: TritonClient) -> None:
        await client.load("m", LOAD_SECONDS)
        version = next(entry.version for entry in await client.index() if entry.name == "m")
        vectors = await client.infer("m", version, np.array([[1, 2, 3]]), timeout=LOAD_SECONDS)
        assert np.isfinite(vectors).all()
        assert await client.model_ready("m", version)
        assert await client.statistics()

    ask(guarded, guarded.access, work)


def test_without_the_header_it_is_refused_and_the_reason_told(guarded: Guarded) -> None:
    async def index(client: TritonClient) -> object:
        return await client.index()

    for headers in ((), ((HEADER[0], "wrong"),)):
        with pytest.raises(TritonUnavailable, match="restricted") as refused:
            ask(guarded, guarded.access._replace(headers=headers), index)
        assert SECRET not in str(refused.value)
        assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    "access",
    [
        lambda right: ChannelOptions(headers=right.headers),
        lambda right: right._replace(private_key=None, certificate=None),
        lambda right: right._replace(root_certificates=trustme.CA().cert_pem.bytes()),
    ],
    ids=["no TLS", "no certificate of the client", "another authority"],
)
def test_without_the_right_certificates_it_is_not_reached(
    guarded: Guarded, access: Callable[[ChannelOptions], ChannelOptions]
) -> None:
    async def index(client: TritonClient) -> object:
        assert not await client.server_ready(3.0)
        return await client.index()

    with pytest.raises(TritonError):
        ask(guarded, access(guarded.access), index)


def test_the_settings_lead_there_and_no_secret_shows(guarded: Guarded, tmp_path: Path) -> None:
    ask(guarded, guarded.access, lambda client: client.load("m", LOAD_SECONDS))
    environment = {
        "TRITON_GRPC_ADDRESS": guarded.url,
        "TRITON_GRPC_TLS_CA": str(guarded.ca),
        "TRITON_GRPC_TLS_KEY": str(guarded.key),
        "TRITON_GRPC_TLS_CERT": str(guarded.certificate),
        "TRITON_GRPC_HEADERS": "=".join(HEADER),
        "LOG_LEVEL": "debug",
    }
    server = Server(guarded.repository.root, environment, tmp_path / "server.log")
    with server.running(), server.client() as client:
        assert client.get("/loaded_models").json() == {"models": ["m"]}
        assert server.process is not None
        arguments = Path(f"/proc/{server.process.pid}/cmdline").read_text()
    assert SECRET not in arguments
    assert SECRET not in server.log.read_text()


def test_a_wrong_header_is_told_in_the_log_without_its_value(guarded: Guarded, tmp_path: Path) -> None:
    environment = {
        "TRITON_GRPC_ADDRESS": guarded.url,
        "TRITON_GRPC_TLS_CA": str(guarded.ca),
        "TRITON_GRPC_TLS_KEY": str(guarded.key),
        "TRITON_GRPC_TLS_CERT": str(guarded.certificate),
        "TRITON_GRPC_HEADERS": f"{HEADER[0]}=not-the-secret",
    }
    server = Server(guarded.repository.root, environment, tmp_path / "server.log")
    server.start()
    try:
        wait_until(lambda: "This protocol is restricted" in server.log.read_text())
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 503
    finally:
        server.stop()
    assert "not-the-secret" not in server.log.read_text()
