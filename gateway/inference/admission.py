"""How much of a model's work is in Triton at a time, and what waits for it here or is refused.

What has gone to Triton cannot be taken back; what waits here can, when its client goes away or its time is
over. So Triton gets as much as its batcher can use, and the rest waits in two lanes for each model: requests
of a few inputs, and bulk. Each lane has rows of its own in Triton, so that neither waits for as long as the
other is; within a lane a request has one place in the queue at a time, so that requests take turns.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from time import monotonic

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.inference.deadline import Deadline, too_late
from gateway.inference.disconnect import watch_caller
from gateway.telemetry.metrics import Queue

FEW = 16
"""Inputs up to which a request goes by the lane of the small ones."""

LEAST_WINDOW = 32
"""Rows in Triton where a model's batches are small, or slow."""

WINDOW_SECONDS = 0.5
"""Of work that is in Triton at most, of either lane: what is there waits for all that went before it."""

AT_ONCE = 128
"""Requests in a lane, waiting or in Triton, up to which none is refused but by MAX_QUEUED_ROWS."""

BURST_ROWS = 512
"""Rows in a lane up to which more requests than that are let in: hundreds of clients with a text each."""

BURST_SECONDS = 0.25
"""Of work at the rate that was measured, which is less than that for slow models."""

OVERLOAD_ROWS = 32
"""Rows that may wait in an overload instead, since what they wait all wait then."""

OVERLOAD_SECONDS = 5.0
"""Without a refusal, after which an overload is over."""

LONGEST_RETRY = 60
"""Seconds that a refused caller is told to wait at most."""

RATE_SECONDS = 0.5
"""Of work, over which the rate is measured."""


class Overload:
    """Whether any lane has refused a request lately."""

    __slots__ = ("_refused",)

    def __init__(self) -> None:
        self._refused = -math.inf

    def note(self) -> None:
        """A request is refused."""
        self._refused = monotonic()

    def lasts(self) -> bool:
        """Whether more are likely to be."""
        return monotonic() - self._refused < OVERLOAD_SECONDS


class Lane:
    """The requests of one kind for one model; for one event loop.

    served: name in Triton. bulk: of many inputs each. most_rows: MAX_QUEUED_ROWS. any_lane: of all lanes.
    """

    def __init__(self, served: str, *, bulk: bool, most_rows: int, any_lane: Overload) -> None:
        self.bulk = bulk
        self.window = LEAST_WINDOW
        self._timely = math.inf
        self._metrics = Queue.of(served, "bulk" if bulk else "small")
        self._most_rows = most_rows
        self.requests = 0
        self.waiting = 0
        self._in_triton = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._shown = 0
        self._any_lane = any_lane
        self._overload = Overload()
        self._coming: list[int] = []
        # Rows done and seconds of work since the rate was last measured, and since when there is work.
        self._done, self._worked, self._since = 0, 0.0, 0.0
        self._measures = False
        self._rate: float | None = None

    def arrive(self, rows: int) -> None:
        """Count a request.

        Raises:
            Overloaded: it would have to wait for too long.
        """
        if (refusal := self._refusal(rows)) is not None:
            raise refusal
        self.requests += 1
        self.waiting += rows

    def early_refusal(self, rows: int) -> Overloaded | None:
        """What a request would be told by `arrive`; if it is nothing, it arrives in the loop's next turn."""
        refusal = self._refusal(rows, self._coming)
        if refusal is None:
            if not self._coming:
                asyncio.get_running_loop().call_soon(self._coming.clear)
            self._coming.append(rows)
        return refusal

    def _refusal(self, rows: int, ahead: Sequence[int] = ()) -> Overloaded | None:
        """What a request is told that would have to wait for too long; ahead: rows of those before it."""
        waiting = self.waiting + sum(ahead)
        if not waiting or not self._is_full(rows, waiting, self.requests + len(ahead)):
            return None
        self._any_lane.note()
        self._metrics.refused.inc()
        return Overloaded(
            f"the model's queue is full: {self.waiting} inputs are waiting; retry later, or send less",
            self.retry_after(),
        )

    def leave(self, rows: int, error: type[BaseException] | None) -> None:
        """A request is over; `rows` of it have not gone to Triton. error: how it ended."""
        self.requests -= 1
        self.waiting -= rows
        if self.waiting != self._shown:
            self.show()
        if error is None:
            return
        if rows and issubclass(error, DeadlineExceeded):
            self._metrics.expired.inc()
        elif rows and issubclass(error, asyncio.CancelledError):
            self._metrics.dropped.inc()

    def retry_after(self) -> int:
        """Seconds in which all that waits now is done, at the present rate."""
        rate = self._rate
        if rate is None:
            # The first work of this lane is not over: what there is to go by.
            rate = self._done / max(self._worked + monotonic() - self._since, 0.001)
        return min(LONGEST_RETRY, math.ceil(self.waiting / rate)) if rate else 1

    def _is_full(self, rows: int, waiting: int, requests: int) -> bool:
        if waiting + rows > self._most_rows:
            return True
        if requests < AT_ONCE or waiting < OVERLOAD_ROWS:
            return False
        burst = BURST_ROWS if self._rate is None else min(BURST_ROWS, self._rate * BURST_SECONDS)
        if not self._overload.lasts() and waiting + self._in_triton + rows <= burst:
            return False
        self._overload.note()
        return True

    def show(self) -> None:
        """Tell the metrics how many rows wait."""
        self._shown = self.waiting
        self._metrics.rows.set(self._shown)

    def enter(self, rows: int) -> bool:
        """Take room for rows in Triton; false where one has to wait for it."""
        if self._queue or not self._has_room(rows):
            return False
        if not self._in_triton:
            self._since = monotonic()
        self._in_triton += rows
        return True

    def _has_room(self, rows: int) -> bool:
        return self._in_triton + rows <= min(self.window, self._timely) or not self._in_triton

    async def wait(self, rows: int, deadline: Deadline) -> None:
        """Wait for one's turn; what is asked for is then in Triton."""
        start = monotonic()
        seconds = deadline.remaining()
        watch_caller()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        late = loop.call_later(seconds, _expire, turn)
        self._queue.append((rows, turn))
        self.show()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # It was granted in the moment of the cancellation.
                self.give(rows, done=0)
            else:
                turn.cancel()
                self._wake()
            raise
        except DeadlineExceeded:
            self._wake()
            raise
        finally:
            late.cancel()
        self._metrics.seconds.observe(monotonic() - start)

    def give(self, rows: int, done: int) -> None:
        """Rows have left Triton; done: how many of them it has computed."""
        was_full = 2 * self._in_triton >= min(self.window, self._timely)
        self._in_triton -= rows
        self._done += done
        if self._queue:
            self._wake()
        now = monotonic()
        worked = self._worked + now - self._since
        if worked >= RATE_SECONDS and self._done:
            self._note_rate(self._done / worked, full=was_full)
            self._done, worked = 0, 0.0
        elif self._in_triton:
            return
        self._worked, self._since = worked, now

    def _wake(self) -> None:
        while self._queue:
            rows, turn = self._queue[0]
            if not turn.done():
                if not self._has_room(rows):
                    return
                self._in_triton += rows
                turn.set_result(None)
            self._queue.popleft()

    def _note_rate(self, rate: float, *, full: bool) -> None:
        """full: Triton had what its batcher can use; with less to do it shows less than it can."""
        if not self._measures:
            # Of a batch that ended this counts one row; the others belong to the time that comes.
            self._measures = True
            return
        before = rate if self._rate is None else self._rate
        self._rate = (before + rate) / 2 if full else max(before, rate)
        self._timely = max(LEAST_WINDOW, self._rate * WINDOW_SECONDS)


class Admission:
    """The lanes of all models. most_rows: that may wait in one lane; a lone request is always let in."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self.overload = Overload()
        self._lanes: dict[tuple[str, bool], Lane] = {}

    def lane(self, served: str, inputs: int, window: int) -> Lane:
        """Where a request of so many inputs goes. window: rows of the lane that are in Triton at a time."""
        key = (served, inputs > FEW)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(
                served, bulk=key[1], most_rows=self._most_rows, any_lane=self.overload
            )
        lane.window = max(LEAST_WINDOW, window)
        return lane


def _expire(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(too_late())
