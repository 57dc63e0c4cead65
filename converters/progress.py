"""Progress reports of a conversion to its caller.

Independent of the reported work; `message` must be safe to show to a client.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import IO, Literal, Protocol

from tqdm import tqdm  # type: ignore[import-untyped]

Step = Literal["download", "convert", "verify"]

_LEAST_INTERVAL = 0.2
"""Least seconds between two lines with one message, so that a fast loop does not flood the reader."""


class Progress(Protocol):
    """Receiver of a conversion's steps and outcome."""

    def step(self, step: Step, progress: float, message: str) -> None:
        """Report a step; `progress` is the part of this step that is done, 0 to 1."""

    def result(self, outcome: dict[str, object]) -> None:
        """Report the end, once, with a `result` or an `error`."""


def part(
    progress: Progress, step: Step, start: float, end: float, what: str = ""
) -> Callable[[float, str], None]:
    """Return a function that reports its progress, 0 to 1, as `start` to `end` of a step."""

    def report(done: float, message: str) -> None:
        progress.step(step, start + (end - start) * done, f"{message}: {what}" if what else message)

    return report


class LastStep:
    """Progress that remembers the last message, for an error that happens after it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._message = "the start"

    def step(self, step: Step, progress: float, message: str) -> None:
        """See `Progress`."""
        self._message = message
        self._progress.step(step, progress, message)

    def result(self, outcome: dict[str, object]) -> None:
        """See `Progress`."""
        self._progress.result(outcome)

    def failure(self) -> str:
        """Return the beginning of an error's message, with the step."""
        # Messages go on with reasons, which would hide the error.
        step = self._message.partition(", ")[0].partition(": ")[0]
        return f"the model cannot be converted, at the step {step!r}"


class JsonProgress:
    """Progress for a program: one JSON object per line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._last: tuple[str, str] | None = None
        self._time = 0.0

    def step(self, step: Step, progress: float, message: str) -> None:
        """See `Progress`."""
        now = time.monotonic()
        if (step, message) == self._last and progress < 1 and now - self._time < _LEAST_INTERVAL:
            return
        self._last, self._time = (step, message), now
        self._write({"step": step, "progress": round(min(max(progress, 0.0), 1.0), 4), "message": message})

    def result(self, outcome: dict[str, object]) -> None:
        """See `Progress`."""
        self._write(outcome)

    def _write(self, data: dict[str, object]) -> None:
        self._stream.write(json.dumps(data, ensure_ascii=False) + "\n")
        self._stream.flush()


class BarProgress:
    """Progress for people: one bar per step on stderr, and the outcome as one JSON line on `stream`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bar: tqdm | None = None
        self._step: Step | None = None

    def step(self, step: Step, progress: float, message: str) -> None:
        """See `Progress`."""
        if self._bar is None or step != self._step:
            self._close()
            self._bar = tqdm(
                total=1.0,
                file=sys.stderr,
                bar_format="{desc:<12}{percentage:3.0f}% |{bar:24}| {elapsed} {postfix}",
            )
            self._bar.set_description_str(step, refresh=False)
            self._step = step
        self._bar.n = min(max(progress, 0.0), 1.0)
        self._bar.set_postfix_str(message)

    def result(self, outcome: dict[str, object]) -> None:
        """See `Progress`."""
        self._close()
        self._stream.write(json.dumps(outcome, ensure_ascii=False) + "\n")
        self._stream.flush()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
