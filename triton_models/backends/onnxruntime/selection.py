"""Which engine serves a model on this machine: the fastest of those that keep to the reference.

Measured once a machine, at conversion or at the first load elsewhere, and recorded as `engine.json`
beside the model. The environment variable ENGINE fixes it instead.
"""

import dataclasses
import json
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_models.accuracy import LEAST_ALONE, LEAST_COSINE, cosines
from triton_models.backends.onnxruntime.sessions import (
    DEFAULT,
    ENGINES,
    EngineName,
    Session,
    has_bfloat16,
    open_session,
    parse_engine,
)
from triton_models.tokens import mark_past_cache

RECORD = "engine.json"
ROUNDS = 3
LONGEST = 128
"""Tokens of the rows that are timed: what most requests hold."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Rows with their reference vectors: ids int64 [L] each, vectors float32 [n, D]."""

    rows: list[NDArray[np.int64]]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, directory: Path) -> "Sample | None":
        """The sample that the converter left in `check.npz`; None where there is none."""
        try:
            with np.load(directory / "check.npz", allow_pickle=False) as arrays:
                rows = np.split(arrays["input_ids"], np.cumsum(arrays["lengths"])[:-1])
                return cls(rows, arrays["embeddings"])
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Measurement:
    """One engine on this machine.

    seconds: for the timed rows, each alone and then all together, median. refused: why it may not serve.
    """

    engine: str
    seconds: float | None
    min_cosine: float | None
    min_alone: float | None
    refused: str | None


@dataclass(frozen=True)
class Selection:
    """The engine that serves, why, and where that holds."""

    engine: str
    machine: str
    threads: int
    fixed_by_operator: bool
    measured: list[Measurement]

    @property
    def name(self) -> EngineName:
        """The engine."""
        return parse_engine(self.engine)


def engine_for(directory: Path, threads: int, *, gpu: bool = False) -> EngineName:
    """The engine for the model of `directory`: fixed by ENGINE, recorded, or measured now and recorded.

    Raises:
        UnknownEngine: ENGINE names none.
    """
    fixed = os.environ.get("ENGINE", "auto")
    if fixed != "auto":
        return parse_engine(fixed)
    sample = Sample.of(directory)
    if gpu or sample is None:
        return DEFAULT
    recorded = read(directory)
    if recorded is not None and (recorded.machine, recorded.threads) == (machine(), threads):
        return recorded.name
    selection = select(directory / "model.onnx", sample, threads)
    try:
        write(selection, directory)
    except OSError as error:
        log.warning("the choice of engine cannot be recorded and is measured at every load: %s", error)
    return selection.name


def select(path: Path, sample: Sample, threads: int, without: Sequence[EngineName] = ()) -> Selection:
    """Measure every engine on the sample; `without` are known not to serve.

    ENGINE is respected: the engine that it fixes is chosen without measuring.
    """
    fixed = os.environ.get("ENGINE", "auto")
    if fixed != "auto":
        return Selection(str(parse_engine(fixed)), machine(), threads, True, [])
    measured = [measure(path, sample, threads, name) for name in ENGINES if name not in without]
    usable = [one for one in measured if one.refused is None and one.seconds is not None]
    fastest = min(usable, key=lambda one: one.seconds or 0.0).engine if usable else str(DEFAULT)
    return Selection(fastest, machine(), threads, False, measured)


def measure(path: Path, sample: Sample, threads: int, name: EngineName) -> Measurement:
    """Speed and accuracy of one engine."""
    try:
        if name.precision != "fp32" and not has_bfloat16():
            return Measurement(str(name), None, None, None, "this CPU has no bfloat16")
        session = open_session(path, threads, name)
        alone = np.concatenate([_run(session, [row]) for row in sample.rows])
        # As grouped requests mark their rows; an engine that stumbles over the flag must not serve.
        together = _run(session, [mark_past_cache(row.reshape(1, -1))[0] for row in sample.rows])
    except (RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        return Measurement(str(name), None, None, None, reason)
    to_reference = min(cosines(alone, sample.vectors).min(), cosines(together, sample.vectors).min())
    to_alone = cosines(alone, together).min()
    refused = None
    if not to_reference >= LEAST_COSINE:
        refused = f"cosine to the reference {to_reference:.6f}, at least {LEAST_COSINE} is needed"
    elif not to_alone >= LEAST_ALONE:
        refused = f"cosine alone to among others {to_alone:.6f}, at least {LEAST_ALONE} is needed"
    return Measurement(str(name), _seconds(session, sample), float(to_reference), float(to_alone), refused)


def machine() -> str:
    """What a measurement depends on: the CPU and the versions of the engines."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, onnxruntime {version('onnxruntime')}, openvino {version('openvino')}"


def read(directory: Path) -> Selection | None:
    """The record beside a model; None where there is none that can be used."""
    try:
        data = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        measured = [Measurement(**one) for one in data.pop("measured")]
        selection = Selection(**data, measured=measured)
        parse_engine(selection.engine)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return selection


def write(selection: Selection, directory: Path) -> None:
    """Record it beside the model, whole or not at all.

    Raises:
        OSError: the directory cannot be written.
    """
    temporary = directory / f".{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps(dataclasses.asdict(selection), indent=2) + "\n", encoding="utf-8")
    temporary.replace(directory / RECORD)


def _run(session: Session, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    return session.run(np.concatenate(rows), np.array([row.size for row in rows], dtype=np.int32))


def _seconds(session: Session, sample: Sample) -> float:
    """Median time for the shorter rows of the sample, each alone, then all together three times over."""
    rows = [row for row in sample.rows if row.size <= LONGEST] or sample.rows[:1]
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for row in rows:
            _run(session, [row])
        for _ in range(3):
            _run(session, rows)
        taken.append(time.perf_counter() - start)
    # The first round warms up.
    return float(np.median(taken[1:]))
