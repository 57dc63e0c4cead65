"""Cost and speed of the inference store: `python -m benchmarks.studies.inference_store`.

The server behind the store returns 1 KB at once, so that all time is spent on the wire and in the store. The
load comes from perf_analyzer: `pip download tritonclient==2.45.0 --no-deps`, unzip it, install Debian's
libb64-0d and PyPI's nvidia-cuda-runtime-cu12, and add the library directory of the latter to LD_LIBRARY_PATH.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil

from benchmarks.compare.report import medians
from inference_store.protocol import METHODS, SERVICE

ELEMENTS = 256
CONNECTIONS = 32
_PORT = re.compile(r"gRPC on \S+?:(\d+)\n")
_RATE = re.compile(r"Throughput: ([\d.]+) infer/sec")
_P50 = re.compile(r"p50 latency: (\d+) usec")


async def play() -> None:
    """Run the server: one model `m`, FP32 [1, 256] in and out. It prints its port."""
    handlers = {name: _fixed(answer) for name, answer in _answers().items()}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def _fixed(answer: bytes) -> Any:  # noqa: ANN401 - a handler, untyped
    async def handle(_request: bytes, _context: object) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(handle)


def _answers() -> dict[str, bytes]:
    shape = {"datatype": "FP32", "shape": [1, ELEMENTS]}
    tensor = {"data_type": "TYPE_FP32", "dims": [1, ELEMENTS]}
    model: dict[str, Any] = {"name": "m", "versions": ["1"], "platform": "played"}
    config = {"name": "m", "input": [{"name": "X", **tensor}], "output": [{"name": "Y", **tensor}]}
    answer = {"outputs": [{"name": "Y", **shape}], "raw_output_contents": [bytes(4 * ELEMENTS)]}
    fields: dict[str, dict[str, Any]] = {
        "ServerLive": {"live": True},
        "ServerReady": {"ready": True},
        "ModelReady": {"ready": True},
        "ModelMetadata": {**model, "inputs": [{"name": "X", **shape}], "outputs": [{"name": "Y", **shape}]},
        "ModelConfig": {"config": config},
        "ModelStatistics": {"model_stats": [{"name": "m", "version": "1"}]},
        "ModelInfer": {"model_name": "m", "model_version": "1", **answer},
    }
    return {
        name: method.answer(**fields.get(name, {})).SerializeToString()
        for name, method in METHODS.items()
        if name != "ModelStreamInfer"
    }


@contextmanager
def started(command: list[str], output: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Start a process, yield its id and the port that it prints, and end it afterwards."""
    with output.open("w") as log:
        process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    try:
        while (found := pattern.search(output.read_text())) is None:
            if process.poll() is not None:
                raise RuntimeError(output.read_text())
            time.sleep(0.05)
        yield process.pid, int(found[1])
    finally:
        process.terminate()
        process.wait(60)


def load(analyzer: str, port: int, connections: int, seconds: float) -> tuple[float, float]:
    """Return requests per second, and the median latency in ms."""
    # All three windows count; the spread between rounds is reported instead.
    window = f"--measurement-interval={seconds / 3 * 1000:.0f} --stability-percentage=999 --max-trials=3"
    asked = f"-m m -i grpc -u 127.0.0.1:{port} --concurrency-range={connections} {window}"
    command = [analyzer, *asked.split()]
    environment = {**os.environ, "TRITON_CLIENT_GRPC_CHANNEL_MAX_SHARE_COUNT": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    rate, p50 = _RATE.search(done.stdout), _P50.search(done.stdout)
    if rate is None or p50 is None:
        raise RuntimeError(done.stdout + done.stderr)
    return float(rate[1]), int(p50[1]) / 1000


def measure(analyzer: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Measure all rows in turn; each has one figure for each round."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        root = Path(name)
        played = ["-m", "benchmarks.studies.inference_store", "--play"]
        _, target = running.enter_context(started(played, root / "target.log", re.compile(r"^(\d+)\n")))

        def store(label: str, *options: str) -> tuple[int, int]:
            ports = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
            command = ["-m", "inference_store", *options, "--target", f"127.0.0.1:{target}", *ports]
            return running.enter_context(started(command, root / f"{label}.log", _PORT))

        pid, memory = store("memory", "auto", "--backend", "memory")
        _, directory = store("directory", "auto", "--path", f"{root}/directory")
        _, collect = store("collect", "collect", "--path", f"{root}/collect")
        found["resident memory idle, MB"] = [psutil.Process(pid).memory_info().rss / 1e6]
        for _ in range(rounds):
            _, direct = load(analyzer, target, 1, seconds)
            _, through = load(analyzer, collect, 1, seconds)
            for label, figure in (
                ("direct, 1 connection, p50 ms", direct),
                ("collect, 1 connection, p50 ms", through),
                ("added by collect, p50 ms", through - direct),
                ("direct, 32 connections, requests/s", load(analyzer, target, CONNECTIONS, seconds)[0]),
                ("replay from memory, requests/s", load(analyzer, memory, CONNECTIONS, seconds)[0]),
                ("replay from the directory, requests/s", load(analyzer, directory, CONNECTIONS, seconds)[0]),
            ):
                found.setdefault(label, []).append(figure)
    return found


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.inference_store", description=__doc__)
    parser.add_argument("--perf-analyzer", default="perf_analyzer", metavar="PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each load")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play:
        asyncio.run(play())
        return 0
    found = measure(arguments.perf_analyzer, arguments.rounds, arguments.seconds)
    print(medians(found, 2))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
