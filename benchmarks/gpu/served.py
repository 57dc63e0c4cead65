"""The whole server: the torch engine through Triton's gRPC, and through HTTP, with several instances."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.compare.inputs import Inputs, grouped
from benchmarks.compare.rounds import measure
from benchmarks.compare.servers import Dialect, Running, Server, our_server, running
from benchmarks.gpu.models import texts
from benchmarks.loadtest.loops import closed_loop, given
from triton_models.client.client import TritonClient
from triton_models.contract.names import triton_name_of
from triton_models.repository.repository import Repository
from triton_models.server.embedded import EmbeddedTriton

CONNECTIONS = (1, 64, 1024)
BULK = (8, 256)
"""Connections, and texts of each request."""
AT_ONCE = 256
LOAD_SECONDS = 300.0
KIND = "mix, mean 68"

Result = dict[str, Any]


def server(name: str, work: Path, engine: str) -> Server:
    """Return our server with the model `name` below `work / "sources"`, converted in fp16."""
    made = our_server(work, {"model_name": name}, "/load_sentence_transformer_model")
    variables = {"MODEL_SOURCES": str(work / "sources"), "EXPORT_PRECISION": "fp16", "RESPONSE_CACHE": "off"}
    # No request is refused because the machine is slow.
    variables["MAX_QUEUE_SECONDS"] = "600"
    return replace(made, name="ours-gpu", variables={**made.variables, **variables, "ENGINE": engine})


def http_rates(
    made: Server, instances: int, seconds: float, connections: Sequence[int], bulk: tuple[int, int]
) -> Result:
    """Measure single texts over some connections, and bulk whose vectors come as bytes."""
    body: Result = {**made.load_body, "instances": instances}
    found: Result = {}
    with running(replace(made, load_body=body)) as up, watched(found):
        for number in connections:
            found[f"{number} connections"] = _load(up, up.server.text, number, 1, seconds)
        found["bulk"] = _load(up, _as_bytes(up.server.text), *bulk, seconds)
    return found


def triton_rates(made: Server, seconds: float, engine: str, at_once: int) -> Result:
    """Measure single texts through Triton alone, `at_once` at a time."""
    found: Result = {}
    os.environ["ENGINE"] = engine
    repository = Repository(made.repository)
    name = triton_name_of(made.load_body["model_name"])
    version = repository.manifest(name).version
    tokenizer = Tokenizer.from_file(str(repository.version_dir(name) / "tokenizer.json"))
    rows = [np.array([tokenizer.encode(text).ids]) for text in texts(KIND, 68 * 2000)]

    async def run() -> float:
        triton = EmbeddedTriton(repository.root, "off")
        addresses = await triton.start()
        try:
            async with TritonClient(addresses.grpc) as client:
                await client.load(name, LOAD_SECONDS)
                return await _rate(client, name, version, rows, seconds, at_once)
        finally:
            await triton.stop()

    with watched(found):
        found["texts_per_second"] = asyncio.run(run())
    return found


async def _rate(
    client: TritonClient, name: str, version: int, rows: list[Any], seconds: float, at_once: int
) -> float:
    answered = 0

    async def caller(number: int, end: float) -> None:
        nonlocal answered
        while time.perf_counter() < end:
            await client.infer(name, version, rows[number % len(rows)], timeout=60)
            number += at_once
            answered += 1

    await asyncio.gather(*(caller(number, time.perf_counter() + seconds / 4) for number in range(at_once)))
    answered, start = 0, time.perf_counter()
    await asyncio.gather(*(caller(number, start + seconds) for number in range(at_once)))
    return answered / (time.perf_counter() - start)


def _load(up: Running, dialect: Dialect, connections: int, each: int, seconds: float) -> Result:
    """Warm up, then measure; every text is a new one."""
    made = Inputs(connections).take("definitions", 200 * each if each > 1 else 20_000)
    requests = [dialect.request(up.address, group) for group in grouped(made, each)]
    closed_loop(up.address, given(requests[:connections]), connections, seconds / 4)
    return measure(closed_loop(up.address, given(requests * 50), connections, seconds), each, 0.0)


def _as_bytes(dialect: Dialect) -> Dialect:
    return replace(dialect, headers={"Accept": "application/octet-stream"})


@contextmanager
def watched(found: Result) -> Iterator[None]:
    """Note the most memory and the mean utilisation of the first GPU inside the `with` block."""
    seen: list[tuple[float, float]] = []
    done = threading.Event()
    query = [
        "nvidia-smi",
        "--query-gpu=memory.used,utilization.gpu",
        "--format=csv,noheader,nounits",
        "-i",
        "0",
    ]

    def watch() -> None:
        while not done.wait(0.5):
            try:
                answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
            except (OSError, subprocess.SubprocessError):
                return
            memory, used = answer.stdout.split(",")
            seen.append((float(memory), float(used)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if seen:
            found["gpu_memory_mib"] = max(memory for memory, _ in seen)
            found["gpu_utilisation_percent"] = float(np.mean([used for _, used in seen]))
