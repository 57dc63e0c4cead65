"""Triton is killed repeatedly under 32 connections; every answer is a right vector or an honest error.

`KILLS=15 python -m pytest -n 0 -m slow -s tests/faults/test_kills.py` kills it 15 times instead of 100 and
prints the results.
"""

import asyncio
import os
import random
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tests.conftest import MINILM, Server
from tests.support.vectors import cosines, embed

CONNECTIONS = 32
DEADLINE = 30.0
"""REQUEST_TIMEOUT of the server, in seconds."""

TEXTS = [f"text {number}, {'about divers and their dogs ' * (number % 7)}" for number in range(64)]


@dataclass
class Seen:
    """Results of the connections.

    Attributes:
        statuses: Number of answers by status.
        wrong: Descriptions of wrong answers.
        hung: Seconds of answers that came too late.
        refusals: Seconds until each honest refusal.
        good: Times at which the latest right answer was requested and received.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hung: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    good: tuple[float, float] = (0.0, 0.0)


class VerifiedLoad:
    """Sends requests over many connections from a separate thread, and judges each answer."""

    def __init__(self, server: Server, model: str, expected: NDArray[np.float32]) -> None:
        self._server = server
        self._model = model
        self._expected = expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self.seen = Seen()

    def __enter__(self) -> "VerifiedLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*(self._ask(random.Random(number)) for number in range(CONNECTIONS)))

    async def _ask(self, rng: random.Random) -> None:
        async with httpx.AsyncClient(
            base_url=self._server.url, timeout=DEADLINE + 10, trust_env=False
        ) as client:
            while not self._stop.is_set():
                indices = rng.choices(range(len(TEXTS)), k=rng.choice((1, 1, 1, 4)))
                body = {"model_name": self._model, "text": [TEXTS[index] for index in indices]}
                start = time.monotonic()
                try:
                    answer = await client.post("/infer_text", json=body)
                except httpx.HTTPError as error:
                    self.seen.wrong.append(repr(error))
                    continue
                self._judge(answer, indices, start)
                if answer.status_code != 200:
                    await asyncio.sleep(0.05)

    def _judge(self, answer: httpx.Response, indices: list[int], start: float) -> None:
        now, seen = time.monotonic(), self.seen
        seen.statuses[str(answer.status_code)] += 1
        if now - start > DEADLINE + 1:
            seen.hung.append(now - start)
        if answer.status_code == 200:
            lowest = cosines(np.array(answer.json()["embedding"]), self._expected[indices]).min()
            if lowest >= 0.9999:
                seen.good = max(seen.good, (start, now))
            else:
                seen.wrong.append(f"cosine {lowest}")
        elif answer.status_code == 503 and int(answer.headers.get("retry-after", 0)) > 0:
            seen.refusals.append(now - start)
        else:
            seen.wrong.append(f"{answer.status_code} {answer.text}")

    def serves_again(self, since: float, limit: float = 120.0) -> float:
        """Return the seconds from `since` to the first right answer to a request sent after it."""
        while self.seen.good[0] < since:
            assert time.monotonic() < since + limit, f"nothing for {limit} s; {self.seen.statuses}"
            time.sleep(0.01)
        return self.seen.good[1] - since


def kill_triton(server: Server) -> None:
    """Send SIGKILL to Triton itself; its stubs end with it."""
    assert server.process is not None
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if process.name() == "tritonserver":
                process.kill()
        except psutil.NoSuchProcess:
            continue


def kills(server: Server, model: str, number: int) -> tuple[Seen, list[float]]:
    """Return the results of the load, and the seconds without service after each kill."""
    rng = random.Random(os.environ.get("SEED", "1"))
    away = []
    with server.client() as client:
        expected = embed(client, TEXTS, model)
    with VerifiedLoad(server, model, expected) as load:
        load.serves_again(time.monotonic())
        for _ in range(number):
            time.sleep(rng.uniform(0.2, 3))
            kill_triton(server)
            away.append(load.serves_again(time.monotonic()))
    return load.seen, away


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_of_triton(
    converted_minilm: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    shutil.copytree(converted_minilm, tmp_path / "repository")
    # Without the cache every vector is computed.
    settings = {"LOAD_MODELS": MINILM, "REQUEST_TIMEOUT": str(DEADLINE), "RESPONSE_CACHE": "off"}
    server = Server(tmp_path / "repository", settings, tmp_path / "server.log")
    with server.running():
        seen, away = kills(server, MINILM, int(os.environ.get("KILLS", "100")))
    refusals = sorted(seen.refusals)
    report = {
        "kills": len(away),
        "answers": dict(seen.statuses),
        "wrong": len(seen.wrong),
        "hung": len(seen.hung),
        "away_s": {"median": round(statistics.median(away), 2), "longest": round(max(away), 2)},
        "refused_after_s": {
            "p50": round(refusals[len(refusals) // 2], 4),
            "p99": round(refusals[len(refusals) * 99 // 100], 4),
            "longest": round(refusals[-1], 2),
        },
    }
    for name, value in report.items():
        record_property(name, value)
        sys.stdout.write(f"{name}: {value}\n")
    assert seen.wrong == []
    assert seen.hung == []
