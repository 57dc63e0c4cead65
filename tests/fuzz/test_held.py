"""What is held while there is an overload, and let in, is answered as if it had never been held."""

import asyncio
import json
import os
import random
import re

import pytest

from gateway.api.request_body import SMALL
from gateway.settings import Settings
from tests.fuzz import wire
from tests.support.overloaded import FREE, Embedder, serving

CASES = int(os.environ.get("FUZZ_HELD", "300"))
AT_A_TIME = 50
QUIET = (0.3, 3.0)
"""Seconds without a byte after which no more is expected; the second where answers were not the same."""

RESET = b"reset"
"""A connection that is closed while more comes in takes with it what the client has not read yet."""

_OF_THE_MOMENT = re.compile(rb'(x-request-id: |date: |content-length: |"processingTimeMs":)[^\r\n}]*')

Pieces = list[bytes]
"""Of what is sent on one connection, each by itself."""


def made(rng: random.Random) -> Pieces:
    """A request that is no good, or good ones, cut anywhere."""
    path = rng.choice((b"/infer", b"/infer_text", b"/infer_text", b"/infer_image", b"/none"))
    text = "a" * rng.choice((1, 10, 100, 70_000))
    body = json.dumps({"model_name": FREE, "text": text}).encode()
    head = b"POST %s HTTP/1.1\r\nHost: a\r\n" % path
    if rng.random() < 0.3:
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        content = whole * rng.randint(1, 3)
    elif rng.random() < 0.05:
        long = json.dumps({"model_name": FREE, "text": "a" * SMALL}).encode()
        content = head + b"Content-Length: %d\r\n\r\n" % len(long) + long
    else:
        content = wire.made(rng, head, body)
    cuts = sorted(rng.randrange(len(content) + 1) for _ in range(rng.randrange(4)))
    return [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]


async def answered(port: int, pieces: Pieces, quiet: float) -> bytes:
    """All that comes back, and how the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.005)
        while True:
            async with asyncio.timeout(quiet):
                part = await reader.read(1 << 16)
            if not part:
                return answer + b"closed"
            answer += part
    except TimeoutError:
        return answer + b"open"
    except ConnectionError:
        return answer + RESET
    finally:
        writer.transport.abort()


async def all_answered(port: int, cases: list[Pieces], quiet: float) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(cases), AT_A_TIME):
        some = cases[start : start + AT_A_TIME]
        found += await asyncio.gather(*(answered(port, case, quiet) for case in some))
    return [_OF_THE_MOMENT.sub(rb"\1", answer) for answer in found]


def agree(one: bytes, other: bytes) -> bool:
    """Whether two answers are the same, as far as they have come."""
    if RESET not in (one[-len(RESET) :], other[-len(RESET) :]):
        return one == other
    short, long = sorted((one.removesuffix(RESET), other.removesuffix(RESET)), key=len)
    return long.startswith(short)


def test_what_is_let_in_is_answered_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(int(os.environ.get("FUZZ_SEED", "0")))
    # Where a head is too large in several parts, it depends on how they come which limit it meets first.
    cases = [case for case in (made(rng) for _ in range(CASES)) if b"v" * 1000 not in b"".join(case)]
    embedder = Embedder()
    differ: list[tuple[Pieces, bytes, bytes]] = []
    with serving(embedder, Settings(load_models=()), monkeypatch) as port:
        for quiet in QUIET:
            found = []
            for embedder.is_overloaded in (False, True):
                found.append(asyncio.run(all_answered(port, cases, quiet)))
            differ = [one for one in zip(cases, *found, strict=True) if not agree(*one[1:])]
            cases = [case for case, *_ in differ]
    assert differ == []
    assert embedder.refused == []
    assert len(embedder.asked) > CASES / 4
