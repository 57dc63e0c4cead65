"""Decides how much of a model's work is in Triton at a time, what waits here, and what is refused.

Work that has gone to Triton cannot be taken back. Work that waits here can be dropped when its client
disconnects or its time is over. So Triton gets as much as its batcher can use, and the rest waits here in two
lanes for each model: requests of a few inputs, and bulk. Each lane has inputs of its own in Triton, so that
neither waits for as long as the other is. Within a lane a request has one place in the queue at a time, so
that requests take turns.

A request is refused with 429 when its predicted wait, the work ahead of it over the measured rate, exceeds
MAX_QUEUE_SECONDS or its own `timeout_ms`, or when more than MAX_QUEUED_INPUTS wait. Until a rate has been
measured it is let in. The rate is measured while Triton has enough to do.
"""

import asyncio
import math
from collections import deque
from time import monotonic

from gateway.concurrency import Deadline, too_late
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.inference.disconnect import watch_caller
from gateway.telemetry.metrics import Queue
from gateway.telemetry.tracing import traced

FEW = 16
"""Inputs up to which a request goes by the lane of the small ones."""

LEAST_WINDOW = 32
"""Inputs of a lane that may be in Triton however small or slow the model's batches are."""

WINDOW_SECONDS = 0.5
"""Seconds of work of one lane that may be in Triton: all that comes later waits for it."""

RATE_SECONDS = 0.5
"""Seconds of work over which the rate is measured."""

LONGEST_RETRY = 60
"""Largest `Retry-After`, in seconds."""


class Lane:
    """The requests of one kind for one model; for one event loop.

    Work is counted in a unit that is proportional to its cost: tokens of texts, or images.

    Args:
        triton_name: The model's.
        bulk: Whether the lane is that of requests with many inputs.
        max_inputs: MAX_QUEUED_INPUTS.
        max_seconds: MAX_QUEUE_SECONDS.
    """

    def __init__(self, triton_name: str, *, bulk: bool, max_inputs: int, max_seconds: float) -> None:
        self.bulk = bulk
        self.window = LEAST_WINDOW
        self.waiting = 0
        self.waiting_work = 0.0
        self._max_inputs = max_inputs
        self._max_seconds = max_seconds
        self._metrics = Queue.of(triton_name, "bulk" if bulk else "small")
        self._in_triton = 0
        self._work_in_triton = 0.0
        self._queue: deque[tuple[int, float, asyncio.Future[None]]] = deque()
        self._shown = 0
        # Work done and the seconds it took since the rate was last measured, and since when there is work.
        self._done, self._worked, self._since = 0.0, 0.0, 0.0
        self._was_busy = False
        self._is_first_measure = True
        self._rate: float | None = None

    def arrive(self, rows: int, work: float, deadline: Deadline) -> None:
        """Count a request of `rows` inputs.

        Raises:
            Overloaded: It would wait for too long, or too many inputs wait.
        """
        if reason := self._refusal(rows, deadline):
            self._metrics.refused.inc()
            raise Overloaded(
                f"the model's queue is full: {reason}; retry later, or send less", self.retry_after()
            )
        self.waiting += rows
        self.waiting_work += work

    def _refusal(self, rows: int, deadline: Deadline) -> str | None:
        if self.waiting and self.waiting + rows > self._max_inputs:
            return f"{self.waiting} inputs are waiting"
        wait = self.predicted_wait()
        if wait > self._max_seconds:
            return f"{self.waiting} inputs are waiting, about {wait:.1f} s of work"
        # A request that is late already is told so, where it would be sent.
        if deadline.own and 0 < deadline.moment - monotonic() < wait:
            return f"about {wait:.1f} s of work are waiting, which is longer than timeout_ms"
        return None

    def predicted_wait(self) -> float:
        """Seconds until all that is here now is done; 0 until a rate has been measured."""
        return (self.waiting_work + self._work_in_triton) / self._rate if self._rate else 0.0

    def retry_after(self) -> int:
        """Seconds in which all that waits now is done, at the present rate; from 1 to LONGEST_RETRY."""
        rate = self._rate
        if rate is None:
            # The first work of this lane is not over: its own pace is all there is to go by.
            rate = self._done / max(self._worked + monotonic() - self._since, 0.001)
        return min(LONGEST_RETRY, max(1, math.ceil(self.waiting_work / rate))) if rate else 1

    def leave(self, rows: int, work: float, error: type[BaseException] | None) -> None:
        """A request is over, by `error` or well; `rows` of it, this much work, have not gone to Triton."""
        self.take(rows, work)
        if self.waiting != self._shown:
            self.show()
        if error is None:
            return
        if rows and issubclass(error, DeadlineExceeded):
            self._metrics.expired.inc()
        elif rows and issubclass(error, asyncio.CancelledError):
            self._metrics.dropped.inc()

    def take(self, rows: int, work: float) -> None:
        """Count rows, and their work, as waiting no more."""
        self.waiting -= rows
        # Sums of fractions do not come back to 0 by themselves.
        self.waiting_work = self.waiting_work - work if self.waiting else 0.0

    def show(self) -> None:
        """Tell the metrics how many inputs wait."""
        self._shown = self.waiting
        self._metrics.rows.set(self._shown)

    def enter(self, rows: int, work: float) -> bool:
        """Take room in Triton; False where the request has to wait for it."""
        if self._queue or not self._has_room(rows, work):
            return False
        self._add(rows, work)
        return True

    def _add(self, rows: int, work: float) -> None:
        if not self._in_triton:
            self._since = monotonic()
        self._in_triton += rows
        self._work_in_triton += work
        self._was_busy |= 2 * self._in_triton >= LEAST_WINDOW

    def _has_room(self, rows: int, work: float) -> bool:
        inputs = self._in_triton + rows
        if inputs <= LEAST_WINDOW or not self._in_triton:
            return True
        timely = self._rate is None or self._work_in_triton + work <= self._rate * WINDOW_SECONDS
        return timely and inputs <= self.window

    @traced("queue")
    async def wait(self, rows: int, work: float, deadline: Deadline) -> None:
        """Wait for room in Triton, and take it.

        Raises:
            DeadlineExceeded: The deadline passed before.
        """
        start = monotonic()
        seconds = deadline.remaining()
        watch_caller()
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        late = loop.call_later(seconds, _expire, granted)
        self._queue.append((rows, work, granted))
        self.show()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                # It was granted in the moment of the cancellation.
                self.give(rows, work, done=0.0)
            else:
                granted.cancel()
                self._wake()
            raise
        except DeadlineExceeded:
            self._wake()
            raise
        finally:
            late.cancel()
        self._metrics.seconds.observe(monotonic() - start)

    def give(self, rows: int, work: float, done: float) -> None:
        """Give back room in Triton; `done` is the work that Triton has computed."""
        self._in_triton -= rows
        self._work_in_triton = self._work_in_triton - work if self._in_triton else 0.0
        self._done += done
        now = monotonic()
        worked = self._worked + now - self._since
        if worked >= RATE_SECONDS and self._done:
            self._measure(self._done / worked)
            self._done, worked = 0.0, 0.0
        self._worked, self._since = worked, now
        if self._queue:
            self._wake()

    def _wake(self) -> None:
        while self._queue:
            rows, work, granted = self._queue[0]
            if not granted.done():
                if not self._has_room(rows, work):
                    return
                self._add(rows, work)
                granted.set_result(None)
            self._queue.popleft()

    def _measure(self, rate: float) -> None:
        was_busy, self._was_busy = self._was_busy, 2 * self._in_triton >= LEAST_WINDOW
        if not was_busy:
            # With less to do than it can, a model shows less than it can: only an increase is news.
            self._rate = self._rate and max(self._rate, rate)
        elif self._is_first_measure:
            # A batch's rows end one by one, so the first measure sees only some of its work.
            self._is_first_measure = False
        else:
            self._rate = rate if self._rate is None else (self._rate + rate) / 2


class Admission:
    """The lanes of all models.

    Args:
        max_inputs: Inputs that may wait in one lane; a lone request is always let in.
        max_seconds: Longest predicted wait.
    """

    def __init__(self, max_inputs: int, max_seconds: float) -> None:
        self.max_inputs = max_inputs
        self._max_seconds = max_seconds
        self._lanes: dict[tuple[str, bool], Lane] = {}

    def lane(self, triton_name: str, inputs: int, window: int) -> Lane:
        """Return the lane of a request with so many inputs.

        Args:
            triton_name: The model's.
            inputs: The request's.
            window: Inputs that Triton's batcher can use at a time.
        """
        key = (triton_name, inputs > FEW)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(
                triton_name, bulk=key[1], max_inputs=self.max_inputs, max_seconds=self._max_seconds
            )
        lane.window = max(LEAST_WINDOW, window)
        return lane


def _expire(granted: "asyncio.Future[None]") -> None:
    if not granted.done():
        granted.set_exception(too_late())
