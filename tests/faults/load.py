"""A load that checks every answer: right vectors, an honest error, or a fault of the server."""

import asyncio
import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from tests.support.vectors import cosines

SAME = 0.99999
SLACK = 10.0
"""Seconds past the server's own limit before a request counts as hung; other work shares this machine."""

HONEST = frozenset({429, 503, 504})
RETRY = frozenset({429, 503})
SIZES = (1, 1, 1, 1, 1, 1, 3, 8, 40, 150)
"""Sizes of requests, equally often: most have one input; 40 and 150 go to Triton in groups."""

_LEAK = re.compile(r"Traceback|/(tmp|home|root|usr|dev|proc|var|work)\b|\d+\.\d+\.\d+\.\d+|\n|errno", re.I)


class Kind(StrEnum):
    RIGHT = "right"
    HONEST = "honest error"
    CUT = "connection error"
    WRONG = "wrong vector"
    DISHONEST = "dishonest error"
    HUNG = "hung"


class Answer(NamedTuple):
    """A judged answer; `began` and `ended` are times of `time.monotonic`."""

    kind: Kind
    began: float
    ended: float
    pool: str
    connection: int
    detail: str


class Question(NamedTuple):
    """A request and its right answers: arrays float32 [n, D], one of which the answer must match."""

    pool: str
    path: str
    body: bytes
    vectors: list[NDArray[np.float32]]


@dataclass
class Pool:
    """Inputs of one model and the vectors that they must get.

    Attributes:
        model: Fields of a request that name the model.
        inputs: Texts or images.
        vectors: float32 [n, D], one row per input.
        modality: "text" or "image".
        sizes: Numbers of inputs of the requests, equally often.
        also: Other vectors that are right too, while a model is replaced.
    """

    model: dict[str, str]
    inputs: Sequence[str]
    vectors: NDArray[np.float32]
    modality: str = "text"
    sizes: tuple[int, ...] = SIZES
    also: list[NDArray[np.float32]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.model["model_name"]

    def question(self, rng: random.Random, turn: int) -> Question:
        """Make a request: half of them from a few inputs that Triton caches, half from all inputs in turn."""
        size = rng.choice(self.sizes)
        if rng.random() < 0.5:
            chosen = [rng.randrange(16) for _ in range(size)]
        else:
            chosen = [(turn * 7 + step) % len(self.inputs) for step in range(size)]
        body = {**self.model, self.modality: [self.inputs[index] for index in chosen]}
        path = "/infer_text" if self.modality == "text" else "/infer_image"
        return Question(
            self.name, path, orjson.dumps(body), [of[chosen] for of in (self.vectors, *self.also)]
        )


class Load:
    """Sends requests from a separate thread until the block ends.

    Args:
        port: Port of the server.
        pools: Inputs of the models; the connections are spread over them.
        connections: Number of connections.
        limit: Seconds that the server may take for a request.
    """

    def __init__(self, port: int, pools: Sequence[Pool], *, connections: int = 8, limit: float = 10) -> None:
        self._port = port
        self._pools = list(pools)
        self._connections = connections
        self._limit = limit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._turns = itertools.count()
        self.answers: list[Answer] = []
        self.again: list[float] = []
        """Seconds from each fault to the end of the last request that failed because of it."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._work(number) for number in range(self._connections)))

        asyncio.run(all_of_them())

    async def _work(self, number: int) -> None:
        rng = random.Random(number)
        connection = Connection(self._port)
        while not self._stop.is_set():
            question = self._pools[number % len(self._pools)].question(rng, next(self._turns))
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._limit + SLACK):
                    kind, detail = judge(question, *await connection.ask(question.path, question.body))
            except TimeoutError:
                kind, detail = Kind.HUNG, f"no answer in {self._limit + SLACK:g} s"
            except (OSError, EOFError) as error:
                kind, detail = Kind.CUT, repr(error)
            self.answers.append(Answer(kind, began, time.monotonic(), question.pool, number, detail))
            if kind is not Kind.RIGHT:
                if kind in (Kind.HUNG, Kind.CUT):
                    connection.close()
                await asyncio.sleep(0.05)
        connection.close()

    @contextmanager
    def fault(self, *, steady: float = 1.0, patience: float = 90.0) -> Iterator[None]:
        """Cause the fault inside the block; then wait for `steady` seconds of right answers only."""
        count, began = len(self.answers), time.monotonic()
        yield
        self.settle(steady, patience)
        failed = [answer.ended for answer in self.answers[count:] if answer.kind is not Kind.RIGHT]
        self.again.append(max(failed, default=began) - began)

    def settle(self, steady: float = 1.0, patience: float = 90.0) -> None:
        """Wait until every connection has got right vectors only for `steady` seconds."""
        since, deadline = time.monotonic(), time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(0.05)
            recent = self._ended_after(since)
            failed = [answer.ended for answer in recent if answer.kind is not Kind.RIGHT]
            if failed:
                since = max(failed)
            # One that still waits for an answer may be in the way of what is broken.
            answered = {answer.connection for answer in recent if answer.began > since}
            if time.monotonic() - since > steady and len(answered) == self._connections:
                return
        raise AssertionError(f"not serving again in {patience:g} s: {self.tail()}")

    def _ended_after(self, moment: float) -> list[Answer]:
        return list(itertools.takewhile(lambda answer: answer.ended > moment, reversed(self.answers)))

    def tail(self, pool: str | None = None) -> str:
        """Describe the last answers that were not right."""
        failed = (
            f"{answer.pool} {answer.kind} {answer.detail}"
            for answer in reversed(self.answers)
            if answer.kind is not Kind.RIGHT and pool in (None, answer.pool)
        )
        return "; ".join(itertools.islice(failed, 5))

    def counts(self, pool: str | None = None) -> Counter[Kind]:
        return Counter(answer.kind for answer in self.answers if pool in (None, answer.pool))

    def gap(self) -> float:
        """Return the longest time in seconds between two right answers, of any model."""
        ends = sorted(answer.ended for answer in self.answers if answer.kind is Kind.RIGHT)
        return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)

    def check(self, *, allowed: Collection[Kind] = (Kind.HONEST,), pool: str | None = None) -> None:
        """Check that there were right answers, and besides them only the allowed kinds."""
        bad = [
            answer
            for answer in self.answers
            if answer.kind is not Kind.RIGHT and answer.kind not in allowed and pool in (None, answer.pool)
        ]
        assert not bad, f"{self.counts(pool)}, such as {[f'{each.kind}: {each.detail}' for each in bad[:5]]}"
        assert self.counts(pool)[Kind.RIGHT] > 0

    def row(self) -> dict[str, Any]:
        """Return the results for the table."""
        counts = self.counts()
        refusals = sorted(
            answer.ended - answer.began for answer in self.answers if answer.kind is Kind.HONEST
        )
        return {
            "connections": self._connections,
            "requests": len(self.answers),
            **{kind.value: counts[kind] for kind in Kind},
            "again": [round(seconds, 1) for seconds in self.again],
            "refusal": round(refusals[len(refusals) // 2], 3) if refusals else None,
            "gap": round(self.gap(), 1),
        }


class Connection:
    """A minimal kept-alive HTTP/1.1 connection, which leaves the cores to the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send a request; return the status, the headers by lower-case name, and the body.

        Raises:
            OSError, EOFError: The connection was refused or cut.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def judge(question: Question, status: int, headers: dict[str, str], content: bytes) -> tuple[Kind, str]:
    """Return the kind of an answer, and details if it is not right."""
    if status != 200:
        return judge_error(status, headers, content)
    got = np.array(orjson.loads(content)["embedding"], np.float32)
    if got.shape != question.vectors[0].shape:
        return Kind.WRONG, f"shape {got.shape}"
    least = max(float(cosines(got, vectors).min()) for vectors in question.vectors)
    return (Kind.RIGHT, "") if least >= SAME else (Kind.WRONG, f"cosine {least:.6f}")


def judge_error(status: int, headers: dict[str, str], content: bytes) -> tuple[Kind, str]:
    said = f"{status} {content.decode(errors='replace')[:300]}"
    try:
        detail = orjson.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        return Kind.DISHONEST, said
    honest = status in HONEST and isinstance(detail, str) and bool(detail) and not _LEAK.search(detail)
    if status in RETRY:
        honest = honest and headers.get("retry-after", "").isdigit()
    return (Kind.HONEST if honest else Kind.DISHONEST), said
