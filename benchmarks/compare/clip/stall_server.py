"""The gateway with a clock on its event loop; `GET /stalls` returns its longest stall since the last call.

A stall is the time by which a short sleep lasts too long. On a busy machine a part of it is the wait for a
core, which no program can avoid. Linux counts that wait, and it is subtracted.
"""

import asyncio
import os
import threading
import time
from pathlib import Path

import uvicorn

from app import app

SLEEP = 0.002

_stalls: list[float] = []
_watching: list["asyncio.Task[None]"] = []


async def watch() -> None:
    """Sleep and record the stalls in seconds, forever."""
    with Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").open("rb", buffering=0) as schedule:

        def waited() -> float:
            schedule.seek(0)
            return int(schedule.read().split()[1]) / 1e9

        while True:
            start, before = time.perf_counter(), waited()
            await asyncio.sleep(SLEEP)
            _stalls.append(time.perf_counter() - start - SLEEP - (waited() - before))


@app.get("/stalls")
async def stalls() -> dict[str, float]:
    """Return the longest stall since the last call, in milliseconds; the first call starts the clock."""
    if not _watching:
        _watching.append(asyncio.create_task(watch()))
    longest = max(_stalls, default=0.0)
    _stalls.clear()
    return {"longest_ms": longest * 1000}


if __name__ == "__main__":
    uvicorn.run(app, host=os.environ["HOST"], port=int(os.environ["PORT"]), access_log=False)
