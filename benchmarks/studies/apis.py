"""What other APIs and forms of the answer cost, on MiniLM: `python -m benchmarks.studies.apis`.

Every pair is measured in turns on one running server; a figure is a ratio within a round.
"""

import argparse
import base64
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.compare.environments import MODEL, WORK, model_files
from benchmarks.compare.servers import SERVERS, running
from benchmarks.compare.texts import Library
from benchmarks.loadtest.raw_http import closed_loop, exchange_once, post

CONNECTIONS = 64
BULK = 256
OCTETS = "application/octet-stream"

Read = Callable[[bytes], Any]


def native(texts: Sequence[str], **fields: str) -> bytes:
    """A request to /infer."""
    return _request("/infer", {"model_name": MODEL, "text": list(texts), **fields})


def openai(texts: Sequence[str], **fields: str) -> bytes:
    """A request to /v1/embeddings."""
    return _request("/v1/embeddings", {"model": MODEL, "input": list(texts), **fields})


def octets(texts: Sequence[str]) -> bytes:
    """A request to /infer for bytes."""
    return native(texts).replace(b"\r\n", f"\r\nAccept: {OCTETS}\r\n".encode(), 1)


def _request(route: str, body: dict[str, Any]) -> bytes:
    return post(route, json.dumps(body, ensure_ascii=False).encode())


def read_native(answer: bytes) -> Any:  # noqa: ANN401 - an array
    """float32 [n, D], as a client reads JSON."""
    return np.array(json.loads(answer)["text_embeddings"], np.float32)


def read_openai(answer: bytes) -> Any:  # noqa: ANN401 - an array
    """float32 [n, D] of /v1/embeddings, numbers or base64."""
    rows = [item["embedding"] for item in json.loads(answer)["data"]]
    if isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.array(rows, np.float32)


def read_octets(answer: bytes) -> Any:  # noqa: ANN401 - an array
    """All numbers, float32."""
    return np.frombuffer(answer, "<f4")


def singles(
    port: int, texts: Sequence[str], seconds: float, **made: Callable[..., bytes]
) -> dict[str, float]:
    """Requests a second of one text each, answers not parsed, by kind."""
    share = len(texts) // len(made)
    found = {}
    for number, (kind, make) in enumerate(made.items()):
        some = texts[number * share : (number + 1) * share]
        outcome = closed_loop(port, [make([text]) for text in some], CONNECTIONS, seconds)
        if outcome.failure:
            raise ConnectionError(outcome.failure)
        found[kind] = outcome.rate
    return found


def bulk(
    port: int,
    groups: Callable[[], Iterator[Sequence[str]]],
    seconds: float,
    make: Callable[..., bytes],
    read: Read,
) -> tuple[float, int]:
    """Texts a second over one connection at a time, each answer read into an array; bytes of an answer."""
    chosen = groups()
    done, size, start = 0, 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        answer = exchange_once(port, make(next(chosen)))
        done, size = done + BULK, len(answer)
        assert read(answer).size
    return done / (time.perf_counter() - start), size


def one_round(port: int, number: int, seconds: float) -> dict[str, float]:
    """Ratios of one round, and bytes."""
    texts = Library(model_files() / "tokenizer.json").round(number)
    closed_loop(port, [native([text]) for text in texts.warm_up[:4000]], CONNECTIONS, seconds)
    base64_texts = lambda texts: openai(texts, encoding_format="base64")  # noqa: E731 - as the functions beside
    unique = singles(port, texts.singles, seconds, infer=native, v1=openai, v1_base64=base64_texts)
    again = [text for _ in range(20) for text in texts.repeated]
    repeated = {}
    for kind, make in (("infer", native), ("v1", openai), ("v1_base64", base64_texts)):
        # Seen before, so that all are answered by the cache.
        closed_loop(port, [make([text]) for text in texts.repeated], CONNECTIONS, seconds)
        repeated[kind] = singles(port, again, seconds, **{kind: make})[kind]
    found = {
        "/v1/embeddings over /infer, unique texts": unique["v1"] / unique["infer"],
        "/v1/embeddings over /infer, repeated texts": repeated["v1"] / repeated["infer"],
        "base64 over float, unique texts": unique["v1_base64"] / unique["v1"],
        "base64 over float, repeated texts": repeated["v1_base64"] / repeated["v1"],
    }
    half = len(texts.bulk) // 4
    kinds: tuple[tuple[str, Callable[..., bytes], Read], ...] = (
        ("json", native, read_native),
        ("octets", octets, read_octets),
        ("v1", openai, read_openai),
        ("base64", base64_texts, read_openai),
    )
    for what in ("unique", "repeated"):
        rates, sizes = {}, {}
        for index, (kind, make, read) in enumerate(kinds):
            some = texts.bulk[index * half : (index + 1) * half] if what == "unique" else texts.bulk[:BULK]
            groups = lambda some=some: _groups(some)  # noqa: E731 - bound at once
            rates[kind], sizes[kind] = bulk(port, groups, seconds, make, read)
        found |= {
            f"{BULK} {what} texts: octet-stream over JSON": rates["octets"] / rates["json"],
            f"{BULK} {what} texts: base64 over float": rates["base64"] / rates["v1"],
        }
        found[f"{BULK} texts: bytes of base64 over float"] = sizes["base64"] / sizes["v1"]
    return found


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Groups of BULK texts; from the beginning where they end."""
    while True:
        for start in range(0, len(texts) - BULK + 1, BULK):
            yield texts[start : start + BULK]


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.apis", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    found: dict[str, list[float]] = {}
    with running(SERVERS[0]) as up:
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}", file=sys.stderr)
            for label, figure in one_round(up.port, number, options.seconds).items():
                found.setdefault(label, []).append(figure)
    print("| | median | least to greatest |\n| --- | --- | --- |")
    for label, figures in found.items():
        print(f"| {label} | {statistics.median(figures):.3f} | {min(figures):.3f} to {max(figures):.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
