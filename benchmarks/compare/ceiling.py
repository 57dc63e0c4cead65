"""The in-process ceiling: the engine that serves, on the same packed model and texts, no server around it.

Usage: python -m benchmarks.compare.ceiling VERSION_DIRECTORY TEXTS.json SECONDS
TEXTS.json holds {"glosses", "passages", "singles"}: lists of texts. The last line printed is JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.tokenizer import TextTokenizer, TokenIds
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.selection import engine_for
from triton_models.manifest import Manifest

BATCH = 32
BULK_TEXTS = 2048
BULK_PASSAGES = 256


class InProcess:
    """The engine that serves a version directory, and the tokenizer of the front end.

    The one place of the benchmarks that knows how the engine is opened.
    """

    def __init__(self, version_directory: Path, threads: int, streams: int) -> None:
        manifest = Manifest.from_json((version_directory / "model.json").read_text(encoding="utf-8"))
        self.tokenizer = TextTokenizer(version_directory, manifest)
        name = engine_for(version_directory, len(os.sched_getaffinity(0))).name
        self._engine = Engine(version_directory / "model.onnx", threads, name, streams)

    def run(self, rows: Sequence[TokenIds]) -> NDArray[np.float32]:
        """Vectors of tokenised texts, [n, D], by one run."""
        lengths = np.array([row.size for row in rows], dtype=np.int32)
        return self._engine.run(np.concatenate(rows), lengths)


def throughput(engines: Sequence[InProcess], rows: Sequence[TokenIds], seconds: float) -> float:
    """Texts a second, already tokenised, in batches of BATCH; each engine has a thread, all one queue."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    for engine in engines:
        engine.run(batches[0])
    passes = 0
    start = time.perf_counter()
    with ThreadPoolExecutor(len(engines)) as pool:
        # Whole passes: a part of sorted batches would be of short texts only.
        while passes == 0 or time.perf_counter() - start < seconds:
            queue = iter(batches)
            for work in [pool.submit(_drain, engine, queue) for engine in engines]:
                work.result()
            passes += 1
    return passes * len(rows) / (time.perf_counter() - start)


def _drain(engine: InProcess, queue: Iterator[Sequence[TokenIds]]) -> None:
    for batch in queue:
        engine.run(batch)


def best(texts: Sequence[str], pools: dict[str, list[InProcess]], seconds: float) -> dict[str, float]:
    """Texts a second of every way to run them, by name, and of the best as `best`."""
    rows = next(iter(pools.values()))[0].tokenizer.encode(texts).rows
    orders = {"as they come": rows, "sorted": sorted(rows, key=lambda row: row.size)}
    found = {
        f"{pool}, {order}": throughput(engines, ordered, seconds)
        for pool, engines in pools.items()
        for order, ordered in orders.items()
    }
    return {**found, "best": max(found.values())}


def latency_ms(engine: InProcess, texts: Sequence[str], seconds: float) -> float:
    """Median time from one text to its vector, tokenising included."""
    for text in texts[:20]:
        engine.run(engine.tokenizer.encode([text]).rows)
    times = []
    end = time.perf_counter() + seconds
    for text in texts[20:]:
        start = time.perf_counter()
        engine.run(engine.tokenizer.encode([text]).rows)
        times.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return float(np.median(times)) * 1000


def main(version_directory: Path, texts: dict[str, list[str]], seconds: float) -> None:
    """Measure, and print JSON."""
    cores = len(os.sched_getaffinity(0))
    chosen = engine_for(version_directory, cores)
    whole = InProcess(version_directory, cores, 1)
    pools = {f"1 engine of {cores} threads": [whole]}
    if chosen.streams > 1:
        pools[f"{chosen.streams} streams, as it serves"] = [
            InProcess(version_directory, cores, chosen.streams)
        ]
    if cores > 1:
        pools[f"{cores} engines of 1 thread"] = [InProcess(version_directory, 1, 1) for _ in range(cores)]
    measured = {
        "engine": chosen.engine,
        "streams": chosen.streams,
        "glosses": best(texts["glosses"][:BULK_TEXTS], pools, seconds),
        "passages": best(texts["passages"][:BULK_PASSAGES], pools, seconds),
        # The way that is fastest for one text, whatever serves.
        "single_ms": latency_ms(whole, texts["singles"], seconds),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), float(sys.argv[3]))
