"""The progress of a run, as one line on standard error."""

import sys
import time

from benchmarks.loadtest.settings import Settings

_EVERY_TERMINAL, _EVERY_LOG = 0.25, 5.0


class Progress:
    """A line of progress, rewritten in place on a terminal and repeated every few seconds elsewhere."""

    def __init__(self, settings: Settings, phase: str, total: int | None) -> None:
        self._phase = phase
        self._goal = f"of {total:,} requests" if total is not None else f"requests in {settings.duration:g} s"
        self._terminal = sys.stderr.isatty()
        self._start = self._written = time.monotonic()

    def show(self, done: int) -> None:
        """Show the number of requests answered so far."""
        now = time.monotonic()
        if now - self._written >= (_EVERY_TERMINAL if self._terminal else _EVERY_LOG):
            self._written = now
            self._write(done, now, "")

    def end(self, done: int) -> None:
        """Write the last line and keep it."""
        self._write(done, time.monotonic(), "\n" if self._terminal else "")

    def _write(self, done: int, now: float, end: str) -> None:
        elapsed = now - self._start
        line = f"{self._phase}: {done:,} {self._goal}, {done / max(elapsed, 1e-9):,.0f}/s, {elapsed:.0f} s"
        print(f"\r{line}\033[K" if self._terminal else f"{line}\n", end=end, file=sys.stderr, flush=True)
