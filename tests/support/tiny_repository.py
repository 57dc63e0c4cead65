"""Tiny models in a Triton repository, and helpers that start Triton on it."""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from tritonclient.grpc import service_pb2_grpc

from tests.support.tiny_onnx import DIMENSIONS, VOCAB_SIZE, write_model
from triton_models.client.client import TritonClient
from triton_models.contract.config import model_config, to_text
from triton_models.contract.manifest import Manifest, Source
from triton_models.repository.repository import CONFIG, MANIFEST, MODEL, Repository

LOAD_SECONDS = 30.0

AS_NOBODY = "import os; os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534)); "
"""Begins a program that root may run as well: root reads and reaches everything."""


@dataclass(frozen=True)
class RunningTriton:
    repository: Repository
    url: str


def manifest(triton_name: str, model: bytes, **changes: Any) -> Manifest:  # noqa: ANN401 - fields of Manifest
    fields: dict[str, Any] = {
        "model_name": triton_name,
        "revision": None,
        "source": Source("directory", "nowhere", None, {}),
        "dimensions": DIMENSIONS,
        "vocab_size": VOCAB_SIZE,
        "max_seq_length": None,
        "add_special_tokens": False,
        "attention": "none",
        "attention_reason": "a mean of vectors has no attention",
        "normalized": False,
        "sha256": hashlib.sha256(model).hexdigest(),
    }
    return Manifest(**{**fields, **changes})


def build(directory: Path, triton_name: str, seed: int, *, work: int = 0, **changes: Any) -> Manifest:  # noqa: ANN401 - fields of Manifest
    """Write a whole tiny model into an empty directory."""
    write_model(directory / MODEL, seed, work=work, tokens="token_dimensions" in changes)
    recorded = manifest(triton_name, (directory / MODEL).read_bytes(), **changes)
    version = directory / str(recorded.version)
    version.mkdir()
    (directory / MODEL).rename(version / MODEL)
    (version / MANIFEST).write_text(recorded.to_json())
    (directory / CONFIG).write_text(to_text(model_config(triton_name, recorded)))
    return recorded


def install(
    repository: Repository,
    triton_name: str,
    seed: int,
    *,
    work: int = 0,
    **changes: Any,  # noqa: ANN401 - fields of Manifest
) -> Manifest:
    """Build a tiny model and put it into the repository."""
    with repository.staging(triton_name) as staged:
        recorded = build(staged, triton_name, seed, work=work, **changes)
        repository.install(staged, triton_name)
    return recorded


async def statistics(client: TritonClient, triton_name: str, *, inferences: int) -> dict[str, Any]:
    """The statistics of one model, once they count this many rows computed."""
    deadline = time.monotonic() + 5
    while True:
        found = next(model for model in await client.statistics() if model["name"] == triton_name)
        if found["inference_count"] >= inferences or time.monotonic() > deadline:
            return dict(found)
        # Triton answers a request before it counts it.
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def stubs(pid: int) -> list[int]:
    """The processes of the models of the Triton `pid`."""
    return [child.pid for child in psutil.Process(pid).children()]


def shared_memory(mark: str) -> list[str]:
    """What takes memory; the directory of a Triton that was killed stays until the next start."""
    return [path.name for path in Path("/dev/shm").glob(f"{mark}*") if not path.is_dir()]


async def start_server(servicer: object) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def with_server(servicer: object, work: Any) -> None:  # noqa: ANN401 - any coroutine function of a client
    async def run() -> None:
        server, port = await start_server(servicer)
        async with TritonClient(f"127.0.0.1:{port}") as client:
            await work(client)
        await server.stop(None)

    asyncio.run(run())
