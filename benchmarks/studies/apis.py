"""The speed of other APIs and forms of the answer, on MiniLM: `python -m benchmarks.studies.apis`.

Every pair is measured in turn on one running server, and each figure is a ratio within a round.
"""

import argparse
import base64
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.compare.environments import WORK, say
from benchmarks.compare.inputs import Inputs, grouped
from benchmarks.compare.report import medians
from benchmarks.compare.servers import OURS, Dialect, Running, openai_dialect, running
from benchmarks.loadtest.connection import Answer
from benchmarks.loadtest.loops import Outcome, closed_loop, given
from benchmarks.loadtest.records import Read, unread
from benchmarks.loadtest.settings import DEFAULT_MODEL

CONNECTIONS = 64
BULK = 256
UNIQUE, REPEATED = 10_000, 500


def _infer(read: Callable[[bytes], Any], **headers: str) -> Dialect:
    return Dialect("/infer", lambda texts: {"model_name": DEFAULT_MODEL, "text": list(texts)}, read, headers)


def _read_base64(answer: bytes) -> list[Any]:
    rows = (base64.b64decode(item["embedding"]) for item in json.loads(answer)["data"])
    return [np.frombuffer(row, "<f4") for row in rows]


_V1 = openai_dialect(DEFAULT_MODEL, "/v1/embeddings")
_BASE64 = openai_dialect(DEFAULT_MODEL, "/v1/embeddings", encoding_format="base64")
FORMS = {
    "json": _infer(lambda answer: json.loads(answer)["text_embeddings"]),
    "octets": _infer(lambda answer: np.frombuffer(answer, "<f4"), Accept="application/octet-stream"),
    "v1": _V1,
    "base64": replace(_BASE64, vectors=_read_base64),
}
OF_SINGLES = ("json", "v1", "base64")


def send(
    up: Running,
    form: Dialect,
    groups: Iterable[Sequence[str]],
    connections: int,
    seconds: float,
    read: Read = unread,
) -> Outcome:
    """Send a request for each group of texts.

    Raises:
        ConnectionError: A request failed.
    """
    requests = given(form.request(up.address, texts) for texts in groups)
    outcome = closed_loop(up.address, requests, connections, seconds, read=read)
    if outcome.failure:
        raise ConnectionError(outcome.failure)
    return outcome


def bulk(up: Running, form: Dialect, texts: Sequence[str], seconds: float) -> tuple[float, float]:
    """Return requests per second of BULK texts over one connection, reading the answers, and their bytes."""

    def read(answer: Answer) -> float:
        content = bytes(memoryview(answer.buffer)[answer.start : answer.end])
        assert np.asarray(form.vectors(content), np.float32).size
        return 0.0

    outcome = send(up, form, cycle(grouped(texts, BULK)), 1, seconds, read)
    return outcome.rate, outcome.records.bytes_in / outcome.requests


def one_round(up: Running, number: int, seconds: float) -> dict[str, float]:
    """Measure the ratios of one round."""
    inputs = Inputs(number)

    def singles(name: str, texts: Sequence[str]) -> float:
        return send(up, FORMS[name], grouped(texts, 1), CONNECTIONS, seconds).rate

    singles("json", inputs.take("definitions", 4000))
    rates = {name: singles(name, inputs.take("definitions", UNIQUE)) for name in OF_SINGLES}
    found = _singles_over(rates, "unique")
    repeated = inputs.take("definitions", REPEATED)
    for name in OF_SINGLES:
        # All texts are sent once before, so that the cache answers them.
        singles(name, repeated)
        rates[name] = singles(name, repeated * 20)
    found |= _singles_over(rates, "repeated")
    shared = inputs.take("definitions", BULK)
    for kind in ("unique", "repeated"):
        seen = {}
        for name, form in FORMS.items():
            texts = inputs.take("definitions", 24 * BULK) if kind == "unique" else shared
            seen[name] = bulk(up, form, texts, seconds)
        found |= {
            f"{BULK} {kind} texts: octet-stream over JSON": seen["octets"][0] / seen["json"][0],
            f"{BULK} {kind} texts: base64 over float": seen["base64"][0] / seen["v1"][0],
            f"{BULK} texts: bytes of base64 over float": seen["base64"][1] / seen["v1"][1],
        }
    return found


def _singles_over(rates: dict[str, float], kind: str) -> dict[str, float]:
    return {
        f"/v1/embeddings over /infer, {kind} texts": rates["v1"] / rates["json"],
        f"base64 over float, {kind} texts": rates["base64"] / rates["v1"],
    }


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.apis", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of one load")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    found: dict[str, list[float]] = {}
    with running(OURS) as up:
        for number in range(1, options.rounds + 1):
            say(f"round {number} of {options.rounds}")
            for label, figure in one_round(up, number, options.seconds).items():
                found.setdefault(label, []).append(figure)
    print(medians(found, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
