"""The application with a clock on its event loop; `GET /stalls` returns its longest recent stall.

A stall is the time by which a short sleep lasts too long. On a busy machine a part of it is the wait for a
core, which no program can avoid. Linux counts that wait, so it can be shown separately.
"""

import asyncio
import threading
import time
from pathlib import Path

import uvicorn
import uvloop
from fastapi.responses import JSONResponse

from gateway.application import create_app
from gateway.settings import read_settings
from gateway.telemetry.logs import set_up_logging

SLEEP = 0.002

_stalls: list[tuple[float, float]] = []
"""The stalls in seconds, by the clock and without the wait for a core."""


async def watch() -> None:
    """Sleep and record the stalls, forever."""
    with Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").open("rb", buffering=0) as schedule:

        def waited() -> float:
            schedule.seek(0)
            return int(schedule.read().split()[1]) / 1e9

        while True:
            start, before = time.perf_counter(), waited()
            await asyncio.sleep(SLEEP)
            late = time.perf_counter() - start - SLEEP
            _stalls.append((late, late - (waited() - before)))


async def stalls() -> JSONResponse:
    """Return the longest stalls since the last call, in milliseconds."""
    seen = _stalls.copy() or [(0.0, 0.0)]
    _stalls.clear()
    by_clock, own = (max(values) * 1000 for values in zip(*seen, strict=True))
    return JSONResponse({"longest_ms": own, "longest_by_the_clock_ms": by_clock, "sleeps": len(seen)})


async def serve() -> None:
    """Serve as `app.py` does, with the clock."""
    settings = read_settings()
    set_up_logging(settings)
    app = create_app(settings)
    app.add_api_route("/stalls", stalls)
    config = uvicorn.Config(app, host=settings.host, port=settings.port, access_log=False)
    watching = asyncio.create_task(watch())
    try:
        await uvicorn.Server(config).serve()
    finally:
        watching.cancel()


if __name__ == "__main__":
    uvloop.run(serve())
