"""What is known of one loaded model, and what follows from it: does it serve, is it blocked, is it dead.

Knows nothing of Triton, files or tasks; times are those of the event loop, in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from triton_models.server.processes import Activity

LOOK = 0.25
"""Seconds between two looks."""

EVERY = 0.5
"""Seconds after which a model that computed nothing is asked something."""

SHARE = 10
"""A model is left alone for this many times as long as its last probe took."""

LATE = 4
"""Looks in a row, in which a process that owes an answer did nothing, until it counts as blocked."""

HUNG = 20
"""The same, until it is to be ended."""

DEAD = 2
"""Looks in a row that see a process ended, until it counts as dead: Triton waits for those that it ends."""

REFUSED = 2
"""Probes in a row that Triton could not bring to the model's process, until that is to be ended."""

PATIENCE = 10.0
"""Seconds without an answer for which a process that computes, or cannot be seen, is believed to serve."""

BUSY_TICKS = 2
"""CPU time between two looks, in ticks of 10 ms, that an idle process does not take."""


NOT_LOADED = "not loaded yet"
NOT_ASKED = "not asked yet"


@dataclass
class Watched:
    """One model in one version, loaded.

    computed: requests so far. proved: when it is last known to have computed one. asked: since when a probe
    is under way. took: seconds that the last probe took. longest: the longest wait for an answer that came.
    failed: why the last probe was no proof. refused: probes in a row that did not reach its process.
    closed: why it is asked nothing, until a probe is answered. ended, idle: looks in a row in which its
    process had ended, or owed an answer and did nothing. ticks: CPU time of its processes at the last look.
    """

    version: int
    computed: int
    proved: float | None = None
    asked: float | None = None
    took: float = 0.0
    longest: float = 0.0
    failed: str | None = None
    refused: int = 0
    closed: str | None = None
    ended: int = 0
    idle: int = 0
    ticks: int = 0

    def count(self, computed: int, now: float) -> None:
        """Note how many requests it has computed by now; more than before is a proof, of one not closed."""
        if computed > self.computed and self.closed is None:
            self.prove(now)
        self.computed = computed

    def prove(self, now: float) -> None:
        """Note that it has answered."""
        self.longest = max(self.longest, self.silent(now))
        self.proved, self.failed, self.closed = now, None, None
        self.refused = self.ended = self.idle = 0

    def is_due(self, now: float) -> bool:
        """Whether it should be asked something."""
        pause = max(EVERY, SHARE * self.took)
        return self.asked is None and (
            self.proved is None or self.closed is not None or now - self.proved > pause
        )

    def silent(self, now: float) -> float:
        """Seconds that it owes an answer."""
        return 0.0 if self.asked is None else now - max(self.asked, self.proved or self.asked)

    def see(self, seen: Sequence[Activity], now: float) -> None:
        """Note what its processes do; none where they cannot be seen."""
        self.ended = self.ended + 1 if any(one.ended for one in seen) else 0
        ticks = sum(one.ticks for one in seen)
        busy = any(one.busy for one in seen) or ticks - self.ticks >= BUSY_TICKS
        self.ticks = ticks
        blocked = bool(seen) and self.silent(now) > 0 and not busy
        self.idle = self.idle + 1 if blocked or any(one.stopped for one in seen) else 0
        if self.ended >= DEAD:
            self.closed = "its process in Triton has ended"
        elif self.idle >= LATE or self.refused >= REFUSED:
            self.closed = "its process in Triton does not answer"

    @property
    def is_dead(self) -> bool:
        """Whether its process has ended."""
        return self.ended >= DEAD

    def is_hung(self, now: float, limit: float) -> bool:
        """Whether its process is to be ended: it is blocked, or has computed for `limit` seconds."""
        return self.idle >= HUNG or self.refused >= REFUSED or self.silent(now) > limit

    def problem(self, now: float) -> str | None:
        """Why it could not serve now; None where it could."""
        if self.closed or self.failed:
            return self.closed or self.failed
        if self.silent(now) > max(PATIENCE, 2 * self.longest):
            return f"no answer for {self.silent(now):.0f} s"
        return None if self.proved is not None else NOT_ASKED
