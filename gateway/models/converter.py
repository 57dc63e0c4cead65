"""Runs the converter, the only process with torch, and reads its progress.

The protocol is `converters/progress.py`: one JSON object a line on standard output.
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
from gateway.model_id import Reference
from gateway.settings import Settings
from gateway.telemetry.metrics import CONVERSIONS, timed

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parent.parent

_LAST_WORDS_SECONDS = 1.0

MOST_WAITING = 32
"""Conversions that may wait for their turn; each is a load that somebody waits for."""

RETRY_SECONDS = 30
"""After which a caller may try again who was one too many."""

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
    """One step on the way to a served model; `progress` counts from 0 to 1 within the step."""

    step: Literal["download", "convert", "verify", "load", "ready"]
    progress: float
    message: str


OnProgress = Callable[[Progress], None]


class Turns:
    """Who converts: so many at a time in this process; others wait in their order, up to a number."""

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._free = asyncio.Semaphore(at_a_time)
        self._waiting = 0

    @asynccontextmanager
    async def one(self, reference: Reference, on_progress: OnProgress) -> AsyncIterator[None]:
        """A turn, for as long as the context lasts.

        Raises:
            Overloaded: too many wait already.
        """
        if self._free.locked():
            if self._waiting >= MOST_WAITING:
                raise Overloaded(
                    f"{self._waiting} conversions wait already; load {reference} when some are done",
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
    reference: Reference,
    revision: str | None,
    on_progress: OnProgress,
    *,
    beside: bool = False,
) -> tuple[int, ...]:
    """Convert one model, with all its parts, into the repository; the caller holds their locks.

    beside: the version that is there stays in place, the new one is put beside it.
    Returns the version of each part, in the order of `Reference.served`.

    Raises:
        ModelNotFound, ModelConflict, InvalidModel, InsufficientStorage: as the converter found.
    """
    last: dict[str, Any] = {}
    command = [*_command(settings, reference, revision), *(["--beside"] if beside else [])]
    async with _process(command, settings.conversion_timeout) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            last = _parse(line)
            if "step" in last:
                on_progress(Progress(last["step"], float(last["progress"]), str(last["message"])))
    if "result" in last:
        return tuple(int(version) for version in last["result"]["versions"])
    if "error" in last and last["error"] in FAILURES:
        raise FAILURES[last["error"]](str(last["message"]))
    # Some libraries abort where an allocation fails.
    if process.returncode in (-signal.SIGKILL, -signal.SIGABRT):
        raise InvalidModel(
            f"the conversion of {reference} was killed, as the system does when memory runs out; "
            "convert it with more memory free"
        )
    raise InvalidModel(
        f"the conversion of {reference} ended before it was done; the server's log has the reason"
    )


def _command(settings: Settings, reference: Reference, revision: str | None) -> list[str]:
    command = [sys.executable, "-m", "converters"]
    if reference.pretrained is None:
        command += ["sentence-transformer", reference.model_name, "--precision", settings.export_precision]
        if settings.trust_remote_code:
            command.append("--trust-remote-code")
    else:
        command += ["clip", reference.model_name, reference.pretrained]
    command += ["--output", str(settings.model_repository), "--progress", "json", "--locked"]
    if revision is not None:
        command += ["--revision", revision]
    if settings.model_sources:
        command += ["--sources", os.pathsep.join(str(path.resolve()) for path in settings.model_sources)]
    # Requests that are being served come first; and no converter outlives the server.
    nice, setpriv = shutil.which("nice"), shutil.which("setpriv")
    return [
        *([nice, "-n", "10"] if nice else []),
        *([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []),
        *command,
    ]


@asynccontextmanager
async def _process(command: list[str], timeout: float) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process whose standard output is read; it has ended when the context ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=PROJECT,
        # ONNX Runtime reports what it runs to its maker unless told not to, before it is imported.
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
        # It ends with the process, unless one that it has started lives on.
        await asyncio.wait({said}, timeout=_LAST_WORDS_SECONDS)
        said.cancel()


async def _log_lines(stream: asyncio.StreamReader) -> None:
    """What the converter and its libraries say, as lines of the log; progress bars only for debugging."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            # Longer than the stream holds, and thrown away.
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
    """Progress as lines of the log, one for each step and each quarter of it."""
    seen: set[tuple[str, int]] = set()

    def report(progress: Progress) -> None:
        quarter = (progress.step, int(progress.progress * 4))
        if quarter not in seen:
            seen.add(quarter)
            log.info("%s: %s %3.0f %% %s", name, progress.step, progress.progress * 100, progress.message)

    return report
