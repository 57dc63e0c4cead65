"""One round: every contestant in turn, alone on the machine, under the same loads."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import processes
from benchmarks.compare.environments import MODEL, ROOT, WORK, model_files, offline, python
from benchmarks.compare.servers import REPOSITORY, Running, Server, ServerFailed, running
from benchmarks.compare.soak import soak
from benchmarks.compare.targets import OPEN_LOOP_SHARE, Load
from benchmarks.compare.texts import Texts
from benchmarks.loadtest.raw_http import Outcome, closed_loop, open_loop
from triton_models.names import served_name

SAMPLE_GLOSSES, SAMPLE_PASSAGES = 48, 16
WARM_UP_TEXTS = 2048
LEAST_COSINE = 0.999
FILL_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """What a round does. Seconds are of one load; `soak_seconds` is 0 for none."""

    loads: Sequence[Load]
    servers: Sequence[Server]
    seconds: float
    soak_seconds: float = 0.0

    @property
    def warm_up_seconds(self) -> float:
        """Of each load, with texts of its own."""
        return max(1.0, self.seconds / 4)


class InProcessFailed(Exception):
    """A measurement without a server failed; the text is the end of what it said."""


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def run_round(plan: Plan, number: int, texts: Texts) -> dict[str, dict[str, Any]]:
    """Measures by contestant and load; what failed has the reason under `failure`."""
    inputs = write_texts(texts)
    measures: dict[str, dict[str, Any]] = {}
    say(f"round {number}: SentenceTransformer.encode in process")
    vectors_file = WORK / "vectors.npy"
    reference = str(ROOT / "benchmarks" / "compare" / "reference.py")
    measured = in_process(
        "plain", [reference, str(model_files()), str(inputs), str(plan.seconds), str(vectors_file)]
    )
    measures["encode"] = {
        "bulk": {"texts_per_second": measured["glosses"]},
        "latency": {"p50": measured["single_ms"]},
    }
    vectors: NDArray[np.float32] = np.load(vectors_file)
    for server in plan.servers:
        measures[server.name] = run_server(plan, server, number, texts, vectors)
        if server.name == "ours":
            measures["ceiling"] = run_ceiling(plan, number, inputs)
    return measures


def run_ceiling(plan: Plan, number: int, inputs: Path) -> dict[str, Any]:
    """The engine alone, on the model that our server has converted."""
    say(f"round {number}: the engine in process, no server")
    directory = version_directory()
    measured = in_process(
        "", ["-m", "benchmarks.compare.ceiling", str(directory), str(inputs), str(max(1.0, plan.seconds / 3))]
    )
    say(f"  glosses {measured['glosses']['best']:,.0f}/s, passages {measured['passages']['best']:,.0f}/s")
    return {**measured, "single": {"ms": measured["single_ms"]}}


def run_server(
    plan: Plan, server: Server, number: int, texts: Texts, vectors: NDArray[np.float32]
) -> dict[str, Any]:
    """Start it, check its vectors, apply the loads."""
    say(f"round {number}: {server.title}")
    found: dict[str, Any] = {}
    try:
        with running(server) as up:
            found["agreement"] = agreement(up, texts, vectors)
            for index, load in enumerate(plan.loads):
                found[load.name] = run_load(plan, up, index, texts, found)
                say(f"  {load.title}: {describe(found[load.name])}")
            if plan.soak_seconds and server.name == "ours" and number == 1:
                say(f"  mixed load for {plan.soak_seconds:.0f} s")
                found["soak"] = soak(up, texts, plan.soak_seconds)
    except (ServerFailed, OSError) as error:
        found["failure"] = str(error) or repr(error)
        say(f"  did not run: {found['failure'][-300:]}")
    return found


def agreement(up: Running, texts: Texts, vectors: NDArray[np.float32]) -> dict[str, Any]:
    """The least cosine to the vectors of SentenceTransformer.encode, over glosses and passages."""
    made = up.embed(sample(texts))
    cosines = (made * vectors).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(vectors, axis=1)
    least = float(cosines.min())
    say(f"  least cosine to SentenceTransformer.encode: {least:.6f}")
    return {"least_cosine": least, "agrees": least >= LEAST_COSINE}


def run_load(plan: Plan, up: Running, index: int, texts: Texts, before: dict[str, Any]) -> dict[str, Any]:
    """Warm up, then measure one load, with what the front end's process spent meanwhile."""
    load = plan.loads[index]
    dialect = up.server.dialect
    warm_up = list(getattr(texts, load.warm_up))
    if load.warm_up == "warm_up":
        warm_up = warm_up[index * WARM_UP_TEXTS : (index + 1) * WARM_UP_TEXTS]
    size = load.texts_per_request
    requests = [dialect.request(group) for group in grouped(getattr(texts, load.texts), size)]
    if load.texts == "repeated":
        requests = random.Random(1).choices(requests, k=200_000)
    warming = [dialect.request(group) for group in grouped(warm_up, size)]
    # All texts that repeat are seen once before, however slow the server: it ends with them.
    warm_up_seconds = FILL_SECONDS if load.texts == "repeated" else plan.warm_up_seconds
    closed_loop(up.port, warming, load.connections, warm_up_seconds)
    cpu = processes.cpu_seconds(up.pid)
    if load.open_loop:
        rate = OPEN_LOOP_SHARE * float(before["singles"]["texts_per_second"] or 0)
        outcome = open_loop(up.port, requests, rate, plan.seconds) if rate else _NOT_RUN
    else:
        outcome = closed_loop(up.port, requests, load.connections, plan.seconds)
    cpu = processes.cpu_seconds(up.pid) - cpu
    return measure(outcome, size, cpu)


_NOT_RUN = Outcome(0, 0, 0, 0, 0, 0, "the highest rate is not known")


def measure(outcome: Outcome, texts_per_request: int, cpu_seconds: float) -> dict[str, Any]:
    """As it is recorded; a failed request voids the load."""
    if outcome.failure:
        return {"texts_per_second": None, "failure": outcome.failure}
    return {
        "texts_per_second": outcome.rate * texts_per_request,
        "requests": outcome.requests,
        "p50": outcome.p50,
        "p99": outcome.p99,
        "mean": outcome.mean,
        "front_end_cpu_ms": cpu_seconds * 1000 / outcome.requests,
        "client_cpu_ms": outcome.client_cpu_ms,
    }


def describe(measured: dict[str, Any]) -> str:
    """One line of a measure."""
    if "failure" in measured:
        return f"void, {measured['failure']}"
    rate = f"{measured['texts_per_second']:,.0f} texts/s"
    return f"{rate}, p50 {measured['p50']:.1f} ms, p99 {measured['p99']:.1f} ms"


def grouped(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    """Whole groups of `size`."""
    return [texts[start : start + size] for start in range(0, len(texts) - size + 1, size)]


def sample(texts: Texts) -> list[str]:
    """Texts whose vectors are compared; of the warm-up, so that no load finds them in a cache."""
    return texts.warm_up[-SAMPLE_GLOSSES:] + texts.passages_warm_up[-SAMPLE_PASSAGES:]


def write_texts(texts: Texts) -> Path:
    """The texts of the measurements in process, as a file."""
    file = WORK / "texts.json"
    chosen = {
        "glosses": texts.bulk[:2048],
        "passages": texts.passages[:256],
        "singles": texts.latency,
        "sample": sample(texts),
    }
    file.write_text(json.dumps(chosen), encoding="utf-8")
    return file


def in_process(environment: str, arguments: list[str]) -> dict[str, Any]:
    """What a measurement in a process of its own printed last.

    Raises:
        InProcessFailed: it failed.
    """
    command = [str(python(environment)), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=offline(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise InProcessFailed(done.stderr.strip()[-600:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def version_directory() -> Path:
    """Of the model that our server converted; the newest where an older one is left."""
    versions = [path for path in (REPOSITORY / served_name(MODEL)).iterdir() if path.name.isdigit()]
    return max(versions, key=lambda path: path.stat().st_mtime)
