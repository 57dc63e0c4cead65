"""Choice of a text model's engine and streams: the fastest on this machine that keeps to the reference.

The engines are measured once for each machine, at conversion or at the first load elsewhere, and recorded as
`engine.json` beside the model. The variable ENGINE fixes the engine; its streams are still measured.
"""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.machine import machine
from triton_models.backends.onnxruntime.sample import Sample
from triton_models.backends.onnxruntime.sessions import (
    CPU,
    DEFAULT,
    ENGINES,
    EngineName,
    fixed_on_cpu,
    has_bfloat16,
    parse_engine,
)
from triton_models.contract.accuracy import BOUNDS, Bounds
from triton_models.contract.tokens import mark_past_cache

RECORD = "engine.json"
ROUNDS = 5
ROUND_SECONDS = 2.0
"""No round begins after this time, since the runs of large models vary little."""
TOGETHER = 6
"""Weight of the time for all rows together against that for the rows one by one."""

WORTHWHILE = 0.95
"""The largest share of one stream's time that more streams may take, as they need more memory."""

LONGEST = 128
"""The most tokens of a timed row; most requests are not longer."""

log = logging.getLogger(__name__)


class Trial(NamedTuple):
    """The vectors of a sample by one engine.

    Attributes:
        alone: float32 [n, D], each input computed alone.
        together: float32 [n, D], all inputs computed at once.
        seconds: Function that times the engine.
    """

    alone: NDArray[np.float32]
    together: NDArray[np.float32]
    seconds: Callable[[], float]


@dataclass(frozen=True)
class Measurement:
    """The measurement of one engine on this machine.

    Attributes:
        engine: Name of the engine.
        streams: Concurrent runs.
        seconds: Median time for the timed rows, each alone and then all together; None if not timed.
        min_cosine: Least cosine to the reference; None for logits.
        min_alone: Least cosine between alone and together; None for logits.
        refused: Why the engine may not serve; None if it may.
        max_difference: Largest difference of a logit to the reference; None for vectors.
    """

    engine: str
    streams: int
    seconds: float | None
    min_cosine: float | None
    min_alone: float | None
    refused: str | None
    max_difference: float | None = None


@dataclass(frozen=True)
class Selection:
    """The chosen engine, its measurements, and the machine and threads for which the choice holds."""

    engine: str
    streams: int
    machine: str
    threads: int
    fixed_by_operator: bool
    measured: list[Measurement]

    @property
    def name(self) -> EngineName:
        """The parsed name of the engine."""
        return parse_engine(self.engine)

    def holds(self, threads: int, fixed: EngineName | None, here: str) -> bool:
        """Return whether the choice was made on the machine `here`, with these threads and this ENGINE."""
        asked = self.name == fixed if fixed else not self.fixed_by_operator
        return asked and (self.machine, self.threads) == (here, threads)


def engine_for(directory: Path, threads: int, *, measured: bool = True, anew: bool = False) -> Selection:
    """Return the engine for the model in `directory`: the recorded one, or one measured now and recorded.

    With `measured` false nothing is measured, and ENGINE's engine or the default one is used. With `anew` the
    engines are measured even if there is a record.

    Raises:
        UnknownEngine: ENGINE names no engine.
    """
    fixed = fixed_on_cpu()
    sample = Sample.of(directory) if measured else None
    if sample is None:
        return Selection(str(fixed or DEFAULT), 1, machine(), threads, fixed is not None, [])
    return recorded_or(
        directory, threads, fixed, lambda: select(directory / "model.onnx", sample, threads), anew=anew
    )


def recorded_or(
    directory: Path,
    threads: int,
    fixed: EngineName | None,
    choose: Callable[[], Selection],
    *,
    anew: bool = False,
    here: str | None = None,
) -> Selection:
    """Return the record beside the model if it holds here and now; otherwise call `choose` and record it.

    `here` describes the machine; None describes its CPU.
    """
    recorded = None if anew else read(directory)
    if recorded is not None and recorded.holds(threads, fixed, here or machine()):
        return recorded
    selection = choose()
    try:
        write(selection, directory)
    except OSError as error:
        log.warning("the choice of engine cannot be recorded and is measured at every load: %s", error)
    return selection


def is_right(engine: Engine, directory: Path) -> bool:
    """Return whether the sample, computed all at once, agrees with the reference; True if there is none."""
    sample = Sample.of(directory)
    if sample is None:
        return True
    together = _run(engine, [mark_past_cache(row.reshape(1, -1))[0] for row in sample.rows])
    return bool(sample.bounds.agreement(together, sample.vectors).min() >= sample.bounds.reference)


def select(path: Path, sample: Sample, threads: int, without: Sequence[EngineName] = ()) -> Selection:
    """Measure every engine on the sample, except those of `without`, then the fastest one with more streams.

    The engine that ENGINE fixes is chosen whatever its accuracy.
    """
    fixed = fixed_on_cpu()
    names = [fixed] if fixed else [name for name in ENGINES if name not in without]
    measured = [measure(path, sample, threads, name) for name in names]
    best = fastest(measured) or Measurement(str(fixed or DEFAULT), 1, None, None, None, None)
    more = [measure(path, sample, threads, parse_engine(best.engine), count) for count in _streams(threads)]
    faster = fastest(more)
    if faster is not None and (faster.seconds or 0.0) <= WORTHWHILE * (best.seconds or 0.0):
        best = faster
    return Selection(best.engine, best.streams, machine(), threads, fixed is not None, measured + more)


def measure(
    path: Path,
    sample: Sample,
    threads: int,
    name: EngineName,
    streams: int = 1,
    device: str = CPU,
) -> Measurement:
    """Measure the speed and accuracy of one engine."""

    def run() -> Trial:
        engine = Engine(path, threads, name, streams, device)
        alone = np.concatenate([_run(engine, [row]) for row in sample.rows])
        # The rows are marked as in grouped requests: an engine that cannot handle the flag must not serve.
        together = _run(engine, [mark_past_cache(row.reshape(1, -1))[0] for row in sample.rows])
        return Trial(alone, together, lambda: _seconds(engine, sample))

    return judge(name, streams, sample.vectors, run, sample.bounds)


def judge(
    name: EngineName,
    streams: int,
    reference: NDArray[np.float32],
    run: Callable[[], Trial],
    bounds: Bounds = BOUNDS["fp32"],
) -> Measurement:
    """Run a trial of an engine and judge it by the reference's vectors or logits, float32 [n, D]."""
    try:
        if name.engine == "openvino" and name.precision != "fp32" and not has_bfloat16():
            return Measurement(str(name), streams, None, None, None, "this CPU has no bfloat16")
        alone, together, seconds = run()
    except (RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        return Measurement(str(name), streams, None, None, None, reason)
    agreement = bounds.agreement
    to_reference = float(min(agreement(alone, reference).min(), agreement(together, reference).min()))
    to_alone = float(agreement(alone, together).min())
    refused = None
    if not to_reference >= bounds.reference:
        refused = f"compared with the reference: {bounds.describe(to_reference, bounds.reference)}"
    elif not to_alone >= bounds.alone:
        refused = f"alone compared with among others: {bounds.describe(to_alone, bounds.alone)}"
    if bounds.of_logits:
        return Measurement(str(name), streams, seconds(), None, None, refused, -to_reference)
    return Measurement(str(name), streams, seconds(), to_reference, to_alone, refused)


def fastest(measured: Sequence[Measurement]) -> Measurement | None:
    """Return the fastest of the engines that may serve, or None if none may."""
    usable = [one for one in measured if one.refused is None and one.seconds is not None]
    return min(usable, key=lambda one: one.seconds or 0.0) if usable else None


def _streams(threads: int) -> list[int]:
    """Return the numbers of streams to try besides one: powers of two, and one for each thread."""
    powers = {1 << bits for bits in range(1, threads.bit_length())}
    return sorted(powers | {threads}) if threads > 1 else []


def read(directory: Path) -> Selection | None:
    """Return the record beside a model, or None if there is none that can be used."""
    try:
        data = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        measured = [Measurement(**one) for one in data.pop("measured")]
        selection = Selection(**data, measured=measured)
        parse_engine(selection.engine)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return selection


def write(selection: Selection, directory: Path) -> None:
    """Record a choice beside the model, atomically.

    Raises:
        OSError: The directory cannot be written.
    """
    temporary = directory / f".{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps(dataclasses.asdict(selection), indent=2) + "\n", encoding="utf-8")
    temporary.replace(directory / RECORD)


def _run(engine: Engine, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    return engine.run(np.concatenate(rows), np.array([row.size for row in rows], dtype=np.int32))


def _seconds(engine: Engine, sample: Sample) -> float:
    """Return the median time for the sample's shorter rows: each alone, plus `TOGETHER` times all at once."""
    rows = [row for row in sample.rows if row.size <= LONGEST] or sample.rows[:1]

    def once() -> float:
        start = time.perf_counter()
        for row in rows:
            _run(engine, [row])
        between = time.perf_counter()
        _run(engine, rows)
        return between - start + TOGETHER * (time.perf_counter() - between)

    return median_of_rounds(once, ROUNDS)


def median_of_rounds(once: Callable[[], float], rounds: int) -> float:
    """Return the median of what `once` returns, called this often or as long as `ROUND_SECONDS` last.

    The runs that were compared with the reference have warmed up.
    """
    taken: list[float] = []
    first = time.perf_counter()
    while not taken or (len(taken) < rounds and time.perf_counter() - first < ROUND_SECONDS):
        taken.append(once())
    return float(np.median(taken))
