"""The speed of other APIs and forms of the answer, on MiniLM: `python -m benchmarks.studies.apis`.

Every pair is measured in turn on one running server, and each figure is a ratio within a round.
"""

import argparse
import base64
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.environments import WORK, say
from benchmarks.compare.inputs import Inputs, grouped
from benchmarks.compare.servers import JSON, OURS, Running, running
from benchmarks.loadtest.connection import head, with_body
from benchmarks.loadtest.loops import closed_loop, given
from benchmarks.loadtest.settings import DEFAULT_MODEL

CONNECTIONS = 64
BULK = 256
UNIQUE, REPEATED = 10_000, 500


def _numbers(answer: bytes) -> NDArray[np.float32]:
    return np.array(json.loads(answer)["text_embeddings"], np.float32)


def _openai(answer: bytes) -> NDArray[np.float32]:
    rows = [item["embedding"] for item in json.loads(answer)["data"]]
    if isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.array(rows, np.float32)


def _octets(answer: bytes) -> NDArray[np.float32]:
    return np.frombuffer(answer, "<f4")


@dataclass(frozen=True)
class Form:
    """One way to request vectors of texts, and to read the answer into an array."""

    route: str
    texts: str
    """The name of the field for the texts."""
    fields: dict[str, str]
    read: Callable[[bytes], NDArray[np.float32]]
    headers: dict[str, str] = field(default_factory=dict)

    def content(self, texts: Sequence[str]) -> bytes:
        """Write the body of one request."""
        return json.dumps({**self.fields, self.texts: list(texts)}, ensure_ascii=False).encode()

    def request(self, up: Running, texts: Sequence[str]) -> bytes:
        """Build the bytes of one request."""
        return with_body(head(up.address, self.route, {**JSON, **self.headers}), self.content(texts))


_INFER: dict[str, Any] = {"route": "/infer", "texts": "text", "fields": {"model_name": DEFAULT_MODEL}}
FORMS = {
    "json": Form(**_INFER, read=_numbers),
    "octets": Form(**_INFER, read=_octets, headers={"Accept": "application/octet-stream"}),
    "v1": Form("/v1/embeddings", "input", {"model": DEFAULT_MODEL}, _openai),
    "base64": Form("/v1/embeddings", "input", {"model": DEFAULT_MODEL, "encoding_format": "base64"}, _openai),
}
OF_SINGLES = ("json", "v1", "base64")


def singles(up: Running, form: Form, texts: Sequence[str], seconds: float) -> float:
    """Return requests per second of one text each; the answers are not parsed.

    Raises:
        ConnectionError: A request failed.
    """
    requests = given(form.request(up, [text]) for text in texts)
    outcome = closed_loop(up.address, requests, CONNECTIONS, seconds)
    if outcome.failure:
        raise ConnectionError(outcome.failure)
    return outcome.rate


def bulk(up: Running, form: Form, texts: Sequence[str], seconds: float) -> tuple[float, int]:
    """Return texts per second, for one request after another read into arrays, and the bytes of an answer."""
    groups = cycle(grouped(texts, BULK))
    done, size, start = 0, 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        answer = up.exchange("POST", form.route, form.content(next(groups)), **form.headers)
        done, size = done + BULK, len(answer)
        assert form.read(answer).size
    return done / (time.perf_counter() - start), size


def one_round(up: Running, number: int, seconds: float) -> dict[str, float]:
    """Measure the ratios of one round."""
    inputs = Inputs(number)
    json_form = FORMS["json"]
    singles(up, json_form, inputs.take("definitions", 4000), seconds)
    found: dict[str, float] = {}
    repeated = inputs.take("definitions", REPEATED)
    rates: dict[str, dict[str, float]] = {"unique": {}, "repeated": {}}
    for name in OF_SINGLES:
        rates["unique"][name] = singles(up, FORMS[name], inputs.take("definitions", UNIQUE), seconds)
    for name in OF_SINGLES:
        # All texts are sent once before, so that the cache answers them.
        singles(up, FORMS[name], repeated, seconds)
        rates["repeated"][name] = singles(up, FORMS[name], repeated * 20, seconds)
    for ratio, over, under in (
        ("/v1/embeddings over /infer", "v1", "json"),
        ("base64 over float", "base64", "v1"),
    ):
        for kind, by_form in rates.items():
            found[f"{ratio}, {kind} texts"] = by_form[over] / by_form[under]
    shared = inputs.take("definitions", BULK)
    for kind in ("unique", "repeated"):
        seen = {
            name: bulk(
                up, form, inputs.take("definitions", 24 * BULK) if kind == "unique" else shared, seconds
            )
            for name, form in FORMS.items()
        }
        found |= {
            f"{BULK} {kind} texts: octet-stream over JSON": seen["octets"][0] / seen["json"][0],
            f"{BULK} {kind} texts: base64 over float": seen["base64"][0] / seen["v1"][0],
        }
        found[f"{BULK} texts: bytes of base64 over float"] = seen["base64"][1] / seen["v1"][1]
    return found


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
    print("| | median | least to greatest |\n| --- | --- | --- |")
    for label, figures in found.items():
        print(f"| {label} | {statistics.median(figures):.3f} | {min(figures):.3f} to {max(figures):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
