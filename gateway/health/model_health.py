"""Judges the health of one loaded model from observations: whether it serves, is blocked, or is dead.

Nothing here depends on Triton, files or tasks. Times are those of the event loop, in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from triton_models.server.processes import ProcessActivity

POLL_SECONDS = 0.25
"""Seconds between two polls."""

PROBE_SECONDS = 0.5
"""Seconds without a computed request after which a model is probed."""

PROBE_DUTY = 10
"""Shortest pause between probes, as a multiple of the time that the last probe took."""

BLOCKED_POLLS = 4
"""Polls in a row in which a process owes an answer and does nothing, until it counts as blocked."""

KILL_POLLS = 20
"""Polls in a row in which a process owes an answer and does nothing, until it must be killed."""

DEAD_POLLS = 2
"""Polls in a row that find a process ended, until it counts as dead: Triton reaps those that it ends."""

REFUSED = 2
"""Probes in a row that Triton could not deliver to the model's process, until it must be killed."""

PATIENCE = 10.0
"""Seconds without an answer for which a process that computes, or cannot be seen, counts as serving."""

BUSY_TICKS = 2
"""CPU time between two polls, in ticks of 10 ms, from which on a process counts as busy."""


NOT_LOADED = "not loaded yet"
NOT_ASKED = "not asked yet"


class HealthState(Enum):
    """The state of a loaded model.

    It begins UNPROVEN and is SERVING once it has answered. A probe that fails makes it FAILING: its requests
    are still sent. CLOSED refuses them, until a probe is answered.
    """

    UNPROVEN = "unproven"
    SERVING = "serving"
    FAILING = "failing"
    CLOSED = "closed"


@dataclass
class ModelHealth:
    """The health of one loaded version of a model.

    Attributes:
        version: The model's version.
        computed: Requests computed so far.
        state: See `HealthState`; changed by `mark_healthy`, `mark_failed` and `close`.
        reason: Why it does not serve; empty while it does.
        healthy_at: The last time at which it is known to have computed a request.
        probed_at: The start of the running probe; None if there is none.
        probe_seconds: Seconds that the last probe took.
        longest_wait: The longest wait for an answer that came, in seconds.
        last_failure: Why the last probe failed; None if it did not.
        undelivered: Probes in a row that did not reach the model's process.
        ended_polls: Polls in a row in which a process had ended.
        idle_polls: Polls in a row in which its processes owed an answer and did nothing, or were stopped.
        ticks: CPU time of its processes at the last poll, in ticks of 10 ms.
    """

    version: int
    computed: int
    state: HealthState = HealthState.UNPROVEN
    reason: str = NOT_ASKED
    healthy_at: float | None = None
    probed_at: float | None = None
    probe_seconds: float = 0.0
    longest_wait: float = 0.0
    last_failure: str | None = None
    undelivered: int = 0
    ended_polls: int = 0
    idle_polls: int = 0
    ticks: int = 0

    @property
    def is_closed(self) -> bool:
        """True if requests are refused."""
        return self.state is HealthState.CLOSED

    def mark_healthy(self, now: float) -> None:
        """Note that the model has answered."""
        self.longest_wait = max(self.longest_wait, self.unanswered_for(now))
        self.state, self.reason, self.healthy_at = HealthState.SERVING, "", now
        self.last_failure = None
        self.undelivered = self.ended_polls = self.idle_polls = 0

    def mark_failed(self, reason: str) -> bool:
        """Note that a probe failed; return whether for another reason than the last one."""
        is_new, self.last_failure = self.last_failure != reason, reason
        if not self.is_closed:
            self.state, self.reason = HealthState.FAILING, reason
        return is_new

    def close(self, reason: str) -> None:
        """Refuse requests until a probe is answered."""
        self.state, self.reason = HealthState.CLOSED, reason

    def observe_count(self, computed: int, now: float) -> None:
        """Note the number of computed requests; an increase shows that it serves, unless it is closed."""
        if computed > self.computed and not self.is_closed:
            self.mark_healthy(now)
        self.computed = computed

    def is_due(self, now: float) -> bool:
        """Return whether the model should be probed now."""
        pause = max(PROBE_SECONDS, PROBE_DUTY * self.probe_seconds)
        return self.probed_at is None and (
            self.healthy_at is None or self.is_closed or now - self.healthy_at > pause
        )

    def unanswered_for(self, now: float) -> float:
        """Return the seconds for which the model has owed an answer; 0 if it owes none."""
        return 0.0 if self.probed_at is None else now - max(self.probed_at, self.healthy_at or self.probed_at)

    def observe_processes(self, seen: Sequence[ProcessActivity], now: float) -> None:
        """Note what the model's processes do; `seen` is empty if they cannot be seen."""
        self.ended_polls = self.ended_polls + 1 if any(one.ended for one in seen) else 0
        ticks = sum(one.ticks for one in seen)
        busy = any(one.busy for one in seen) or ticks - self.ticks >= BUSY_TICKS
        self.ticks = ticks
        blocked = bool(seen) and self.unanswered_for(now) > 0 and not busy
        self.idle_polls = self.idle_polls + 1 if blocked or any(one.stopped for one in seen) else 0
        if self.is_dead:
            self.close("its process in Triton has ended")
        elif self.idle_polls >= BLOCKED_POLLS or self.undelivered >= REFUSED:
            self.close("its process in Triton does not answer")

    @property
    def is_dead(self) -> bool:
        """True if the model's process has ended."""
        return self.ended_polls >= DEAD_POLLS

    def is_hung(self, now: float, limit: float) -> bool:
        """True if the process must be killed: it is blocked, or has owed an answer for `limit` seconds."""
        return (
            self.idle_polls >= KILL_POLLS or self.undelivered >= REFUSED or self.unanswered_for(now) > limit
        )

    def problem(self, now: float) -> str | None:
        """Return why the model cannot serve now; None if it can."""
        if self.state in (HealthState.CLOSED, HealthState.FAILING):
            return self.reason
        if self.unanswered_for(now) > max(PATIENCE, 2 * self.longest_wait):
            return f"no answer for {self.unanswered_for(now):.0f} s"
        return self.reason or None
