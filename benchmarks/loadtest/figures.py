"""The figures of the report, computed from the records of the processes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.loadtest.records import Records
from benchmarks.loadtest.server import Counts
from benchmarks.loadtest.settings import Settings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One measured run. Arrays have one row per answered request; moments are in seconds after `start`."""

    settings: Settings
    start: float
    processes: list[Records]
    counts: Counts | None

    @cached_property
    def answered(self) -> Floats:
        """The moments of the answers."""
        return self.joined("answered") - self.start

    @cached_property
    def response_ms(self) -> Floats:
        """The milliseconds from the moment each request was due to its answer."""
        return (self.joined("answered") - self.joined("due")) * 1000

    def joined(self, name: str) -> Floats:
        """Return an array of the records, over all processes."""
        return np.concatenate([np.asarray(getattr(records, name)) for records in self.processes])

    @property
    def failed(self) -> int:
        """The number of requests without a valid answer; a single one makes the run void."""
        return sum(records.failed for records in self.processes)

    @property
    def first_failure(self) -> str | None:
        """The reason of the earliest failure."""
        reasons = [records.first_failure for records in self.processes if records.first_failure]
        return min(reasons)[1] if reasons else None

    @property
    def seconds(self) -> float:
        """The seconds from the start to the last answer."""
        return float(self.answered.max()) if self.answered.size else 0.0

    @property
    def busy_share(self) -> float:
        """The CPU time of the busiest sending process, as a share of the run."""
        return max(records.cpu_seconds for records in self.processes) / max(self.seconds, 1e-9)


def figures(run: Run) -> dict[str, Any]:
    """Compute every figure, with its unit in its name; a figure that is not known is None."""
    requests = int(run.answered.size)
    cpu = sum(records.cpu_seconds for records in run.processes)
    late = run.joined("late") * 1000
    return {
        "total_requests": requests,
        "seconds": run.seconds,
        "qps": requests / run.seconds,
        "texts_per_second": requests * run.settings.texts_sent / run.seconds,
        "images_per_second": requests * run.settings.images_sent / run.seconds,
        "response_ms": {
            **_spread(run.response_ms),
            **{f"p{q}": float(np.percentile(run.response_ms, q)) for q in (50, 90, 95, 99)},
            "max": float(run.response_ms.max()),
        },
        "inference_ms": _spread(run.joined("inference_ms")),
        "bytes_out": sum(records.bytes_out for records in run.processes),
        "bytes_in": sum(records.bytes_in for records in run.processes),
        **_triton(run.counts),
        "client_cpu_ms_per_request": cpu * 1000 / requests,
        "client_busy_share": run.busy_share,
        "client_late_ms": {"p99": float(np.percentile(late, 99)), "max": float(late.max())}
        if late.size
        else None,
        "reconnects": sum(records.reconnects for records in run.processes),
    }


def _spread(values: Floats) -> dict[str, float]:
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return {"mean": float(values.mean()), "median": float(np.median(values)), "stdev": deviation}


def _triton(counts: Counts | None) -> dict[str, Any]:
    looked_up = counts.cache_hits + counts.cache_misses if counts else 0
    return {
        "cache_hits": counts and counts.cache_hits,
        "cache_misses": counts and counts.cache_misses,
        "cache_hit_share": counts.cache_hits / looked_up if counts and looked_up else None,
        "rows_computed": counts and counts.rows,
        "executions": counts and counts.executions,
        "mean_batch_size": counts.rows / counts.executions if counts and counts.executions else None,
    }
