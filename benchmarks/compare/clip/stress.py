"""What image load does to the front end: the event loop's longest stall, and the memory of large images."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.compare.clip.contestants import image_requests
from benchmarks.compare.clip.inputs import Inputs
from benchmarks.compare.servers import Running
from benchmarks.loadtest.raw_http import HOST, closed_loop, exchange_once

CONNECTIONS = 16
LARGE = (4000, 3000)
"""12 megapixels."""

LARGE_AT_ONCE = 64
LARGE_DISTINCT = 8
IMAGES = 1500


def stall(up: Running, inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Under the image load of the table."""
    # The first request of its route imports modules, some 20 ms, which is not the images' doing.
    _stalls(up)
    closed_loop(up.port, image_requests(up, inputs.images(100)), CONNECTIONS, seconds / 4)
    _stalls(up)
    outcome = closed_loop(up.port, image_requests(up, inputs.images(IMAGES)), CONNECTIONS, seconds)
    if outcome.failure:
        return {"failure": outcome.failure}
    return {**_stalls(up), "images_per_second": outcome.rate}


def memory(up: Running, inputs: Inputs) -> dict[str, Any]:
    """Bytes resident in the front end: idle, and at most while LARGE_AT_ONCE requests of 12 megapixels run.

    Idle is after a few small images: libraries are loaded and threads started by then.
    """
    closed_loop(up.port, image_requests(up, inputs.images(64)), CONNECTIONS, 10)
    pictures = [_enlarged(image) for image in inputs.images(LARGE_DISTINCT)]
    requests = image_requests(up, pictures) * (LARGE_AT_ONCE // LARGE_DISTINCT)
    idle = _resident(up.pid, "VmRSS")
    # Linux's own record of the peak, set back to now.
    Path(f"/proc/{up.pid}/clear_refs").write_text("5", encoding="ascii")
    _stalls(up)
    outcome = closed_loop(up.port, requests, LARGE_AT_ONCE, 1e9)
    if outcome.failure:
        return {"failure": outcome.failure}
    peak = _resident(up.pid, "VmHWM")
    return {
        "idle_bytes": idle,
        "peak_bytes": peak,
        "above_idle_mb": (peak - idle) / 1e6,
        "body_bytes": sum(map(len, requests)) / len(requests),
        "images_per_second": outcome.rate,
        **_stalls(up),
    }


def _enlarged(image: bytes) -> bytes:
    written = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        opened.resize(LARGE, Image.Resampling.BICUBIC).save(written, "JPEG", quality=95)
    return written.getvalue()


def _stalls(up: Running) -> dict[str, Any]:
    request = f"GET /stalls HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    found: dict[str, Any] = json.loads(exchange_once(up.port, request))
    return found


def _resident(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
