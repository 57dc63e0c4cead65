"""One server under all loads of a round, newly started and alone on the machine, with its vectors checked."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.compare.environments import WORK, say
from benchmarks.compare.inputs import Inputs, grouped, sample
from benchmarks.compare.servers import Running, Server, ServerFailed, running
from benchmarks.compare.targets import OPEN_LOOP_SHARE, Comparison, Load
from benchmarks.loadtest.loops import Outcome, closed_loop, given, open_loop, poisson
from triton_models.contract.accuracy import cosines

REFERENCE = WORK / "reference.npz"
"""The file of the original library's vectors for `sample`, written by each round, one array for each kind."""

LEAST_COSINE, LEAST_CENTRED = 0.999, 0.9
"""The least cosines, of the vectors and of their differences from the mean. The differences are compared too
because the vectors of a tower with random weights lie close together."""

FILL_SECONDS = 60.0


def run_server(
    comparison: Comparison,
    server: Server,
    loads: Sequence[Load],
    number: int,
    seconds: float,
    more: Callable[[Running], dict[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """Start a server, check its vectors, apply the loads, and measure `more` of it.

    Returns:
        The measures by load, and the reason under `failure` if the server failed.
    """
    say(f"round {number}: {server.title}")
    inputs = Inputs(number)
    found: dict[str, Any] = {}
    try:
        with running(server) as up:
            found["agreement"] = agreement(comparison, up)
            for load in loads:
                singles = found.get("singles", {}).get("texts_per_second")
                found[load.name] = run_load(load, up, inputs, seconds, singles)
                say(f"  {load.title}: {describe(load, found[load.name])}")
            found |= more(up)
    except (ServerFailed, OSError) as error:
        found["failure"] = str(error) or repr(error)
        say(f"  did not run: {found['failure'][-300:]}")
    return found


def agreement(comparison: Comparison, up: Running) -> dict[str, Any]:
    """Compare a server's vectors with the reference's by the least cosines, unchanged and from the mean."""
    reference = np.load(REFERENCE)
    found: dict[str, Any] = {}
    for column, kinds in comparison.samples.items():
        wanted = reference[column]
        made = np.concatenate([up.embed(kind, sample([kind])) for kind in kinds])
        centre = wanted.mean(0)
        found[column] = {
            "least_cosine": float(cosines(made, wanted).min()),
            "least_cosine_centred": float(cosines(_as_long_as(made, wanted) - centre, wanted - centre).min()),
        }
    say(f"  least cosines to the original: {found}")
    least, centred = (
        min(one[name] for one in found.values()) for name in ("least_cosine", "least_cosine_centred")
    )
    return {**found, "least_cosine": least, "agrees": least >= LEAST_COSINE and centred >= LEAST_CENTRED}


def _as_long_as(vectors: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to the lengths of others: some servers return unit vectors."""
    scale = np.linalg.norm(wanted, axis=1, keepdims=True) / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors * scale, np.float32)


def run_load(
    load: Load, up: Running, inputs: Inputs, seconds: float, highest: float | None
) -> dict[str, Any]:
    """Warm up with separate inputs, then measure one load and the CPU time of the gateway's process.

    Args:
        load: The load.
        up: The server.
        inputs: Source of new inputs.
        seconds: Duration of the measurement.
        highest: Requests per second that the server reached in a closed loop, for an open one.
    """
    made = inputs.take(load.kind, load.distinct or load.number)
    requests = [up.request(load.kind, group) for group in grouped(made, load.per_request)]
    if load.distinct:
        # Every input is sent once before, however slow the server is.
        closed_loop(up.address, given(requests), load.connections, FILL_SECONDS)
        requests = random.Random(1).choices(requests, k=load.number)
    else:
        warm_up = max(load.connections, len(requests) // 10)
        warming, requests = requests[:warm_up], requests[warm_up:]
        closed_loop(up.address, given(warming), load.connections, max(1.0, seconds / 4))
    cpu = cpu_seconds(up.pid)
    if load.open_loop:
        if not highest:
            return {"texts_per_second": None, "failure": "the highest rate is not known"}
        due = OPEN_LOOP_SHARE * highest
        moments = poisson(due, min(len(requests), round(due * seconds)), seed=7)
        outcome = open_loop(up.address, given(requests), moments)
    else:
        outcome = closed_loop(up.address, given(requests), load.connections, seconds)
    return measure(outcome, load.per_request, cpu_seconds(up.pid) - cpu)


def measure(outcome: Outcome, per_request: int, cpu: float) -> dict[str, Any]:
    """Return the figures of one load for the record; a single failed request makes it void."""
    if outcome.failure:
        return {"texts_per_second": None, "failure": outcome.failure}
    return {
        "texts_per_second": outcome.rate * per_request,
        "requests": outcome.requests,
        "p50": outcome.percentile(50),
        "p99": outcome.percentile(99),
        "front_end_cpu_ms": cpu * 1000 / outcome.requests,
        "client_cpu_ms": outcome.client_cpu_ms,
    }


def describe(load: Load, measured: dict[str, Any]) -> str:
    """Describe the measures of one load in a line."""
    if "failure" in measured:
        return f"void, {measured['failure']}"
    unit = load.kind if load.kind in ("images", "captions") else "texts"
    rate = f"{measured['texts_per_second']:,.0f} {unit}/s"
    return f"{rate}, p50 {measured['p50']:.1f} ms, p99 {measured['p99']:.1f} ms"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of one process, without its children."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def version_directory(repository: Path, name: str) -> Path:
    """Return the directory of the newest version of a model that our server converted."""
    return max((repository / name).glob("[0-9]*"), key=lambda path: path.stat().st_mtime)
