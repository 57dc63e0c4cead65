"""The gateway under image load: the event loop's longest stall, and the memory that large images take."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.compare.inputs import Inputs
from benchmarks.compare.servers import Running
from benchmarks.loadtest.images import data_uri
from benchmarks.loadtest.loops import Outcome, closed_loop, given

CONNECTIONS = 16
LARGE = (4000, 3000)
"""The width and height of a large image, 12 megapixels."""

LARGE_AT_ONCE, LARGE_DISTINCT = 64, 8
IMAGES = 1500


def stall(up: Running, inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Measure the longest stall under the image load of the table."""
    # The route's first request starts the clock, and imports modules for some 20 ms.
    _stalls(up)
    _send(up, inputs.take("images", 100), CONNECTIONS, seconds / 4)
    _stalls(up)
    outcome = _send(up, inputs.take("images", IMAGES), CONNECTIONS, seconds)
    if outcome.failure:
        return {"failure": outcome.failure}
    return {**_stalls(up), "images_per_second": outcome.rate}


def memory(up: Running, inputs: Inputs) -> dict[str, Any]:
    """Measure the gateway's resident bytes, idle and at the peak under LARGE_AT_ONCE large images.

    The idle value is taken after a few small images, when libraries are loaded and threads are started.
    """
    _send(up, inputs.take("images", 64), CONNECTIONS, 10)
    large = [data_uri(_enlarged(image)) for image in inputs.images(LARGE_DISTINCT)]
    idle = _resident(up.pid, "VmRSS")
    # This resets Linux's record of the peak to the present value.
    Path(f"/proc/{up.pid}/clear_refs").write_text("5", encoding="ascii")
    outcome = _send(up, large * (LARGE_AT_ONCE // LARGE_DISTINCT), LARGE_AT_ONCE, float("inf"))
    if outcome.failure:
        return {"failure": outcome.failure}
    peak = _resident(up.pid, "VmHWM")
    return {"idle_bytes": idle, "peak_bytes": peak, "above_idle_mb": (peak - idle) / 1e6}


def _send(up: Running, images: list[str], connections: int, seconds: float) -> Outcome:
    requests = [up.request("images", [image]) for image in images]
    return closed_loop(up.address, given(requests), connections, seconds)


def _enlarged(image: bytes) -> bytes:
    written = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        opened.resize(LARGE, Image.Resampling.BICUBIC).save(written, "JPEG", quality=95)
    return written.getvalue()


def _stalls(up: Running) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(up.exchange("GET", "/stalls"))
    return found


def _resident(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
