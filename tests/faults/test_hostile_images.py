"""Test with two hundred images that cost more than their size suggests, while texts are embedded."""

import base64
import http.client
import json
import logging
import os
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gateway.images.decoder import MEMORY
from tests.conftest import Server
from tests.gateway.images.test_headers import METADATA
from tests.support.converted_models import CLIP, STATIC, Stock
from tests.support.hostile_pictures import HOSTILE, avif_as, flat, scans_jpeg
from tests.support.pictures import encoded

COUNT = 200
AT_ONCE = 16
LIMIT = 10
"""REQUEST_TIMEOUT, in seconds."""

SLACK = 200 << 20
"""Bytes beyond the budget: sixteen bodies of a megabyte at once, each as text, as string and decoded."""


def allowed() -> dict[str, bytes]:
    """Return images that are within the limits, but expensive to decode."""
    side = 7900
    black = Image.new("RGB", (side, side), (5, 200, 60))
    noise = np.random.default_rng(0).integers(0, 255, (400, 500, 3), np.uint8)
    return {
        "png": encoded(black, "PNG"),
        "jpeg": encoded(black, "JPEG", quality=30),
        "jpeg, scans": scans_jpeg(side, 12),
        "webp": encoded(black.resize((4000, 4000)), "WEBP", method=0),
        "tiff": encoded(black.convert("L"), "TIFF", compression="tiff_lzw"),
        "avif": flat(4000),
        "avif that says less": avif_as(flat(4000), 64, 64),
        "noise": encoded(Image.fromarray(noise), "PNG"),
    }


_bodies: list[bytes] = []
"""Bodies in the process that sends them; sent from this one, they would delay the texts that are timed."""


def prepare() -> None:
    made = [make() for _, make in HOSTILE.values()] + list(METADATA.values()) + list(allowed().values())
    coded = [base64.b64encode(image).decode() for image in made]
    _bodies.extend(json.dumps({"model_name": CLIP, "image": image}).encode() for image in coded)


def attack(port: int) -> tuple[dict[int, int], float]:
    """Send the bodies, AT_ONCE at a time; return the count of each status and the longest time in seconds."""

    def send(number: int) -> tuple[int, float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        began = time.monotonic()
        connection.request("POST", "/infer_image", _bodies[number % len(_bodies)])
        status = connection.getresponse().status
        connection.close()
        return status, time.monotonic() - began

    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(send, range(COUNT)))
    return dict(Counter(status for status, _ in answers)), max(seconds for _, seconds in answers)


class Texts:
    """Sends requests of one text, one after another, while the context lasts."""

    def __init__(self, server: Server) -> None:
        self.seconds: list[float] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Texts":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._server.client() as client:
            while not self._stop.is_set():
                began = time.perf_counter()
                body = {"model_name": STATIC, "text": f"a dog {len(self.seconds)}"}
                assert client.post("/infer", json=body).status_code == 200
                self.seconds.append(time.perf_counter() - began)
                time.sleep(0.005)

    def median(self) -> float:
        return float(np.median(self.seconds))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int, which: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(which))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_hostile_images(stock: Stock, tmp_path: Path) -> None:
    for name in (CLIP, STATIC):
        stock.put(tmp_path / "repository", name)
    settings = {"MODEL_SOURCES": str(stock.sources), "LOAD_MODELS": f"{CLIP},{STATIC}"}
    settings["REQUEST_TIMEOUT"] = str(LIMIT)
    server = Server(tmp_path / "repository", settings, tmp_path / "server.log")
    sender = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    sender.submit(prepare).result()
    with sender, server.running(), server.client() as client:
        assert client.post("/load_clip_model", json={"model_name": CLIP}).status_code == 200
        model = {"model_name": STATIC}
        assert client.post("/load_sentence_transformer_model", json=model).status_code == 200
        assert server.process is not None
        pid = server.process.pid
        with Texts(server) as quiet:
            time.sleep(10)
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = resident(pid, "VmRSS")
        with Texts(server) as busy:
            statuses, longest = sender.submit(attack, server.port).result()
        peak = resident(pid, "VmHWM")
        # A second later every thread has returned, and the gateway is idle.
        time.sleep(1)
        spent = cpu_seconds(pid)
        time.sleep(2)
        spent = cpu_seconds(pid) - spent
    figures = (
        f"{statuses}; longest answer {longest:.1f} s; texts {quiet.median() * 1000:.1f} ms quiet, "
        f"{busy.median() * 1000:.1f} ms beside, at most {max(busy.seconds) * 1000:.0f} ms; "
        f"front end {before >> 20} MB before, {peak >> 20} MB at most; {spent:.2f} s of CPU afterwards"
    )
    logging.getLogger(__name__).info(figures)
    assert set(statuses) <= {200, 413, 422, 429, 503, 504}, figures
    assert statuses[422] + statuses[413] >= 100, figures
    assert longest < LIMIT + 10, figures
    assert spent < 0.5, figures
    assert peak - before < MEMORY + SLACK, figures
    assert busy.median() < 2 * quiet.median() + 0.005, figures
