"""The model in process, without a server: the original library, and the engine that serves.

    python -m benchmarks.compare.in_process encode ROUND SECONDS
    python -m benchmarks.compare.in_process engine ROUND SECONDS VERSION_DIRECTORY

`encode` also writes the vectors with which all contestants are compared. The last line printed is JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.environments import model_files
from benchmarks.compare.inputs import Inputs, sample
from benchmarks.compare.rounds import REFERENCE
from benchmarks.compare.targets import TEXTS
from benchmarks.loadtest.machine import cores
from gateway.text.tokenizer import TextTokenizer, TokenIds
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.engine_selection import engine_for
from triton_models.contract.manifest import Manifest

BATCH = 32
BULK = {"glosses": ("definitions", 2048), "passages": ("passages", 256)}
SINGLES = 1000


def rate(work: Callable[[], Any], seconds: float) -> float:
    """Return calls per second; `work` is called at least once, and no call is cut off."""
    calls = 0
    start = time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        work()
        calls += 1
    return calls / (time.perf_counter() - start)


def latency_ms(work: Callable[[str], Any], texts: Sequence[str], seconds: float) -> float:
    """Return the median time from one text to its vector in ms, after 20 texts of warm-up."""
    for text in texts[:20]:
        work(text)
    times = []
    end = time.perf_counter() + seconds
    for text in texts[20:]:
        start = time.perf_counter()
        work(text)
        times.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return float(np.median(times)) * 1000


def encode(inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Measure `SentenceTransformer.encode`, which sorts texts by length, and write the reference vectors."""
    from converters.torchvision_shim import make_importable

    make_importable()
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_files()))

    def run(texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(model.encode(texts, batch_size=BATCH, show_progress_bar=False))

    np.savez(REFERENCE, **{column: run(sample(kinds)) for column, kinds in TEXTS.samples.items()})
    texts = inputs.take(*BULK["glosses"])
    return {
        "single_ms": latency_ms(lambda text: run([text]), inputs.take("definitions", 120), seconds),
        "glosses": rate(lambda: run(texts), seconds) * len(texts),
    }


class EngineInProcess:
    """The engine that serves a version directory, and the gateway's tokenizer."""

    def __init__(self, version_directory: Path, threads: int, streams: int) -> None:
        manifest = Manifest.from_json((version_directory / "model.json").read_text(encoding="utf-8"))
        self.tokenizer = TextTokenizer(version_directory, manifest)
        name = engine_for(version_directory, cores()).name
        self._engine = Engine(version_directory / "model.onnx", threads, name, streams)

    def run(self, rows: Sequence[TokenIds]) -> NDArray[np.float32]:
        """Return vectors of tokenised texts, float32 [n, D], in one run."""
        lengths = np.array([row.size for row in rows], dtype=np.int32)
        return self._engine.run(np.concatenate(rows), lengths)

    def embed(self, text: str) -> NDArray[np.float32]:
        """Return the vector of one text, float32 [1, D]."""
        return self.run(self.tokenizer.encode([text]).rows)


def throughput(engines: Sequence[EngineInProcess], rows: Sequence[TokenIds], seconds: float) -> float:
    """Return tokenised texts per second in batches of BATCH; engines have a thread each and share a queue."""
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    for engine in engines:
        engine.run(batches[0])

    def drain(engine: EngineInProcess, queue: Iterator[Sequence[TokenIds]]) -> None:
        for batch in queue:
            engine.run(batch)

    with ThreadPoolExecutor(len(engines)) as pool:

        def whole_pass() -> None:
            queue = iter(batches)
            for work in [pool.submit(drain, engine, queue) for engine in engines]:
                work.result()

        # Only whole passes count: the first sorted batches hold only short texts.
        return rate(whole_pass, seconds) * len(rows)


def best(texts: Sequence[str], pools: dict[str, list[EngineInProcess]], seconds: float) -> dict[str, float]:
    """Return texts per second for every way to run them, by name, and for the fastest as `best`."""
    rows = next(iter(pools.values()))[0].tokenizer.encode(texts).rows
    orders = {"as they come": rows, "sorted": sorted(rows, key=lambda row: row.size)}
    found = {
        f"{pool}, {order}": throughput(engines, ordered, seconds)
        for pool, engines in pools.items()
        for order, ordered in orders.items()
    }
    return {**found, "best": max(found.values())}


def engine(inputs: Inputs, seconds: float, version: Path) -> dict[str, Any]:
    """Measure the engine that serves, which is the server's ceiling with the same packed model."""
    number = cores()
    chosen = engine_for(version, number)
    whole = EngineInProcess(version, number, 1)
    pools = {f"1 engine of {number} threads": [whole]}
    if chosen.streams > 1:
        own = EngineInProcess(version, number, chosen.streams)
        pools[f"{chosen.streams} streams, as it serves"] = [own]
    if number > 1:
        pools[f"{number} engines of 1 thread"] = [EngineInProcess(version, 1, 1) for _ in range(number)]
    return {
        "engine": chosen.engine,
        "streams": chosen.streams,
        **{name: best(inputs.take(*bulk), pools, seconds) for name, bulk in BULK.items()},
        # This is the fastest way for one text, whatever engine serves.
        "single_ms": latency_ms(whole.embed, inputs.take("definitions", SINGLES), seconds),
    }


def main(part: str, number: int, seconds: float, *version: str) -> None:
    """Measure one part and print JSON."""
    inputs = Inputs(number)
    found = encode(inputs, seconds) if part == "encode" else engine(inputs, seconds, Path(version[0]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
