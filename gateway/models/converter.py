"""Runs the converter, the only process with torch, and reads its progress.

The protocol is that of `converters/progress.py`: one JSON object per line on standard output.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.credentials import for_the_converter
from gateway.errors import (
    GatewayError,
    InsufficientStorage,
    InvalidModel,
    ModelConflict,
    ModelNotFound,
    Overloaded,
)
from gateway.model_id import ModelId
from gateway.settings import Settings
from gateway.telemetry.metrics import CONVERSIONS, timed

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[2]

_LAST_WORDS_SECONDS = 1.0

MOST_WAITING = 32
"""Most conversions that may wait for their turn; each is a load that a caller waits for."""

RETRY_SECONDS = 30
"""`Retry-After` for a caller that was refused because too many conversions wait."""

FAILURES: dict[str, type[GatewayError]] = {
    "not_found": ModelNotFound,
    "collision": ModelConflict,
    "invalid_model": InvalidModel,
    "check_failed": InvalidModel,
    "no_space": InsufficientStorage,
    "no_memory": InsufficientStorage,
}


@dataclass(frozen=True)
class Progress:
    """The progress of a load: its current step, and the fraction of that step, from 0 to 1, that is done."""

    step: Literal["download", "convert", "verify", "load", "ready"]
    progress: float
    message: str


OnProgress = Callable[[Progress], None]


class Turns:
    """Bounds this process's conversions: `at_a_time` run, others queue in order, up to MOST_WAITING."""

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._free = asyncio.Semaphore(at_a_time)
        self._waiting = 0

    @asynccontextmanager
    async def one(self, model_id: ModelId, on_progress: OnProgress) -> AsyncIterator[None]:
        """Wait for a turn and hold it while the context lasts.

        Raises:
            Overloaded: Too many conversions wait already.
        """
        if self._free.locked():
            if self._waiting >= MOST_WAITING:
                raise Overloaded(
                    f"{self._waiting} conversions wait already; load {model_id} when some are done",
                    RETRY_SECONDS,
                )
            waits = f"Waiting for other conversions: {self._at_a_time} run at a time (MAX_CONVERSIONS)"
            on_progress(Progress("download", 0.0, waits))
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()


@timed(CONVERSIONS)
async def convert(
    settings: Settings,
    model_id: ModelId,
    revision: str | None,
    on_progress: OnProgress,
    *,
    beside: bool = False,
) -> tuple[int, ...]:
    """Convert one model, with all its parts, into the repository; the caller holds their locks.

    Args:
        settings: The server's: precision, sources, time limit, repository.
        model_id: The model.
        revision: Of the source; None for the default one.
        on_progress: Called at each step.
        beside: Whether to keep the present version and put the new one beside it.

    Returns:
        The new version of each part, in the order of `ModelId.triton_names`.

    Raises:
        ModelNotFound, ModelConflict, InvalidModel, InsufficientStorage: The converter's error.
    """
    last: dict[str, Any] = {}
    command = [*_command(settings, model_id, revision), *(["--beside"] if beside else [])]
    async with _process(command, settings.conversion_timeout) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            last = _parse(line)
            if "step" in last:
                on_progress(Progress(last["step"], float(last["progress"]), str(last["message"])))
    if "result" in last:
        return tuple(int(version) for version in last["result"]["versions"])
    if "error" in last:
        raise FAILURES.get(last["error"], InvalidModel)(str(last["message"]))
    raise InvalidModel(_how_it_ended(model_id, process.returncode or 0))


def _how_it_ended(model_id: ModelId, status: int) -> str:
    """Return the message for a converter process that ended without a result or an error."""
    if status >= 0:
        return f"the conversion of {model_id} ended with status {status} and no result; load it again"
    name = signal.Signals(-status).name
    # Some libraries abort when an allocation fails.
    if -status in (signal.SIGKILL, signal.SIGABRT):
        return (
            f"the conversion of {model_id} was killed ({name}), as the system does when memory runs out; "
            "convert it with more memory free"
        )
    return (
        f"the conversion of {model_id} was ended by {name}, as when a library crashes on a model's files; "
        "check that they are complete and belong together"
    )


def _command(settings: Settings, model_id: ModelId, revision: str | None) -> list[str]:
    command = [sys.executable, "-m", "converters"]
    if model_id.pretrained is None:
        command += ["sentence-transformer", model_id.model_name]
        if settings.trust_remote_code:
            command.append("--trust-remote-code")
    else:
        command += ["clip", model_id.model_name, model_id.pretrained]
    command += ["--output", str(settings.model_repository), "--progress", "json", "--locked"]
    command += ["--precision", settings.export_precision]
    if revision is not None:
        command += ["--revision", revision]
    if settings.model_sources:
        command += ["--sources", os.pathsep.join(str(path.resolve()) for path in settings.model_sources)]
    # `nice` gives requests priority over the conversion; `setpriv` ends the converter with the server.
    nice, setpriv = shutil.which("nice"), shutil.which("setpriv")
    return [
        *([nice, "-n", "10"] if nice else []),
        *([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []),
        *command,
    ]


@asynccontextmanager
async def _process(command: list[str], timeout: float) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process whose standard output is read; it has ended when the context ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PROJECT,
        # ONNX Runtime sends telemetry unless this is set before it is imported.
        env={**for_the_converter(), "PYTHONUNBUFFERED": "1", "ORT_DISABLE_TELEMETRY": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said = asyncio.create_task(_log_lines(process.stderr))
    try:
        async with asyncio.timeout(timeout):
            yield process
            await process.wait()
    except TimeoutError as error:
        raise InvalidModel(f"the conversion took longer than CONVERSION_TIMEOUT ({timeout:g} s)") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        # The stream ends with the process, unless a child process of it lives on.
        await asyncio.wait({said}, timeout=_LAST_WORDS_SECONDS)
        said.cancel()


async def _log_lines(stream: asyncio.StreamReader) -> None:
    """Log the output of the converter and its libraries; progress bars only at debug level."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            # The line is longer than the stream's buffer, and is discarded.
            continue
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        if text:
            log.log(logging.DEBUG if "\r" in text else logging.WARNING, "the converter: %s", text)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        log.warning("the converter printed: %s", line.decode(errors="replace").rstrip())
        return {}
    return parsed


def log_progress(name: str) -> OnProgress:
    """Return a callback that logs progress, one line for each quarter of each step."""
    seen: set[tuple[str, int]] = set()

    def report(progress: Progress) -> None:
        quarter = (progress.step, int(progress.progress * 4))
        if quarter not in seen:
            seen.add(quarter)
            log.info("%s: %s %3.0f %% %s", name, progress.step, progress.progress * 100, progress.message)

    return report
