"""Malformed requests of every kind for a running server, and good ones in between."""

import asyncio
import base64
import gzip
import json
import random
import re
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from tests.conftest import ROOT, Server
from tests.fuzz import wire
from tests.fuzz.mutations import broken_json
from tests.fuzz.test_images import made

CHANGES = frozenset(
    {"/load_sentence_transformer_model", "/load_clip_model", "/load_model", "/unload_model", "/delete_model"}
)
"""Never of a model that is there; a load looks for its model in a process that takes seconds."""
SHARE_OF_CHANGES = 0.1
NAMES = ("model_name", "name", "model")
AT_A_TIME = 8
ACCEPTS = ("application/x-npy", "application/octet-stream;q=x", "text/*", "\xff\xfe", ",;=,", "*/*;q=0")
JUNK = (
    *"%00 %2e%2e%2f .. %ff%fe % %zz é \\ // ? # : hf-hub:a/b %f0%9f%99%82 a:b:c * nobody/none %20".split(),
    "a" * 9000,
)
"""In the place of a model's name in a path."""
BETWEEN_GOOD = 40
ANSWER_SECONDS = 120.0
PATIENCE = 0.5
"""Seconds for an answer to what may be no whole request."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_REFUSALS = ("501", "505")
"""Of a method, a transfer coding or a version of HTTP: the client's faults, though they begin with a 5."""


@dataclass
class Report:
    """What was seen. statuses: by kind of request; memory: resident bytes of each process, in turns."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=dict)
    good: int = 0

    def growth(self) -> dict[str, float]:
        """How much more memory each process held in the last fifth than in the middle one, as a share."""
        shares = {}
        for name, sizes in self.memory.items():
            fifth = max(1, len(sizes) // 5)
            middle, last = sizes[2 * fifth : 3 * fifth], sizes[-fifth:]
            shares[name] = statistics.median(last) / statistics.median(middle) - 1
        return shares


@dataclass(frozen=True)
class Route:
    """One operation of the OpenAPI with its examples of bodies."""

    method: str
    path: str
    bodies: tuple[dict[str, Any], ...]


def routes() -> list[Route]:
    found = []
    for path, operations in json.loads((ROOT / "openapi.json").read_text())["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            bodies = tuple(example["value"] for example in content.get("examples", {}).values())
            found.append(Route(method.upper(), path, bodies or ({"name": "a", "model_name": "a"},)))
    return found


class Fuzzer:
    """text, clip: names of loaded models; none for no CLIP model."""

    def __init__(self, server: Server, text: str, clip: str | None, seed: int = 0) -> None:
        self._server, self._text, self._clip = server, text, clip
        self._rng = random.Random(seed)
        embedding = [route for route in routes() if route.path not in CHANGES]
        self._routes, self._locks = embedding, [route for route in routes() if route.path in CHANGES]
        self.report = Report()

    async def run(self, requests: int) -> Report:
        """So many malformed requests, a few at a time."""
        before, expected = processes(self._server), await self._good()
        assert not self.report.faults, self.report.faults
        kinds = {"body": self.body, "wire": self.wire, "headers": self.headers, "path": self.path}
        if self._clip:
            kinds["image"] = self.image
        numbers = iter(range(requests))

        async def work() -> None:
            for number in numbers:
                name, make = self._rng.choice(list(kinds.items()))
                await self._one(name, *make())
                if number % BETWEEN_GOOD == 0:
                    self._compare(await self._good(), expected)
                if number % max(1, requests // 100) == 0:
                    self._measure()

        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
        self._compare(await self._good(), expected)
        if processes(self._server) != before:
            self.report.faults.append("a process has ended or was started anew")
        return self.report

    def body(self) -> tuple[bytes, bool]:
        """A body that is no good, sent as it should be."""
        route = self._route()
        body = broken_json(self._rng, self._aimed(route))
        # A long body that nobody asked for is not read, and the connection's reset can take the answer along.
        return self._request(route, body if route.method == "POST" else body[:1000]), True

    def image(self) -> tuple[bytes, bool]:
        """Damaged images, in place of good ones or beside them."""
        pictures = [base64.b64encode(made(self._rng)).decode() for _ in range(self._rng.randint(1, 3))]
        heads = ("", "data:;base64,", "data:,", "http://127.0.0.1:1/", "http://[::1]/", "file:///")
        images = [self._rng.choice(heads[:2]) + picture for picture in pictures]
        images += self._rng.choices(heads, k=self._rng.randrange(2))
        route = Route("POST", "/infer", ())
        return self._request(route, json.dumps({"model_name": self._clip, "image": images}).encode()), True

    def headers(self) -> tuple[bytes, bool]:
        """A good body under headers that do not fit it."""
        rng, route = self._rng, self._route()
        body = json.dumps(self._aimed(route)).encode()
        kind = rng.randrange(6)
        more: list[tuple[str, str]] = []
        if kind == 0:
            body, more = gzip.compress(body), [("Content-Encoding", "gzip")]
        elif kind == 1:
            more = [("Content-Encoding", rng.choice(("br", "deflate", "gzip, gzip", "\xff", "")))]
        elif kind == 2:
            types = (
                "text/plain",
                "multipart/form-data; boundary=x",
                "application/x-www-form-urlencoded",
                "a",
                "",
            )
            more = [("Content-Type", rng.choice(types))]
            if "multipart" in more[0][1]:
                body = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + body + b"\r\n--x--\r\n"
        elif kind == 3:
            accepts = (
                "application/x-npy",
                "application/octet-stream;q=x",
                "text/*",
                "\xff\xfe",
                ",;=,",
                "*/*;q=0",
            )
            more = [("Accept", rng.choice(accepts))] * rng.randint(1, 3)
        elif kind == 4:
            more = [("Authorization", rng.choice(("Bearer", "Bearer \xe9", "Basic x", " " * 100)))]
        else:
            more = [(f"X-{number}", "v" * rng.randrange(200)) for number in range(rng.randrange(150))]
        return self._request(route, body, more), True

    def path(self) -> tuple[bytes, bool]:
        """Paths and methods that there are not, or with something else in the place of a name."""
        rng, route = self._rng, self._route()
        path = route.path.replace("{model}", rng.choice(JUNK))
        if rng.random() < 0.5:
            place = rng.randrange(len(path) + 1)
            path = path[:place] + rng.choice(JUNK) + path[place:]
        if route.path in CHANGES:
            path = "/none" + path
        method = rng.choice((route.method, "GET", "PUT", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW", "get"))
        changed = Route(method, path, ())
        return self._request(changed, json.dumps(self._aimed(route)).encode()), False

    def wire(self) -> tuple[bytes, bool]:
        """What is no HTTP, or HTTP that two servers could read differently."""
        route = self._route()
        head = f"POST {route.path} HTTP/1.1\r\nHost: a\r\n".encode()
        return wire.made(self._rng, head, json.dumps(self._aimed(route)).encode()), False

    def _route(self) -> Route:
        return self._rng.choice(self._locks if self._rng.random() < SHARE_OF_CHANGES else self._routes)

    def _aimed(self, route: Route) -> dict[str, Any]:
        """An example of the route's bodies, for a loaded model; for none, where it would be changed."""
        body = dict(self._rng.choice(route.bodies))
        for name in set(NAMES) & body.keys():
            is_clip = "pretrained" in body or "image" in body or str(body[name]).startswith("ViT")
            body[name] = (self._clip if is_clip else None) or self._text
            body.pop("pretrained", None)
            if route.path in CHANGES:
                body[name] = self._rng.choice(
                    ("../none", "nobody/none") if self._rng.random() < 0.1 else ("..",)
                )
        return body

    def _request(self, route: Route, body: bytes, more: list[tuple[str, str]] | None = None) -> bytes:
        path = route.path.replace("{model}", self._text)
        fields = [("Host", "a"), ("Connection", "close"), ("Content-Length", str(len(body))), *(more or [])]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{route.method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body

    async def _one(self, kind: str, content: bytes, is_whole: bool) -> None:
        """Send it; no answer may be a fault of the server's."""
        try:
            answer = await self._exchange(content, is_whole)
        except OSError:
            answer = b""
        found = [status.decode() for status in _STATUS.findall(answer)] if answer else ["closed"]
        self.report.statuses.setdefault(kind, Counter()).update(found)
        is_fault = any(status.startswith("5") and status not in _REFUSALS for status in found)
        if is_fault or (is_whole and found == ["closed"]):
            self.report.faults.append(f"{found} to {content[:2000]!r}: {answer[:300]!r}")

    async def _exchange(self, content: bytes, is_whole: bool) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            writer.write(content)
            if not is_whole and self._rng.random() < 0.3:
                # Gone before the answer, at times before all is sent.
                return b""
            answer = b""
            try:
                async with asyncio.timeout(ANSWER_SECONDS if is_whole else PATIENCE):
                    while part := await reader.read(1 << 16):
                        answer += part
            except TimeoutError:
                if is_whole:
                    self.report.faults.append(f"no answer to {content[:2000]!r}")
            return answer
        finally:
            writer.transport.abort()

    async def _good(self) -> np.ndarray[Any, Any]:
        """The vectors of a good request, float32 [n, D]."""
        body = json.dumps({"model_name": self._text, "text": ["a diver", "", "the quick brown fox"]}).encode()
        answer = await self._exchange(self._request(Route("POST", "/infer_text", ()), body), True)
        self.report.good += 1
        head, _, content = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            self.report.faults.append(f"a good request was answered by {answer[:300]!r}")
            return np.zeros((3, 1), np.float32)
        return np.array(json.loads(content)["embedding"], np.float32)

    def _compare(self, vectors: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
        if vectors.shape != expected.shape or not np.allclose(vectors, expected, atol=1e-5):
            self.report.faults.append("a good request got other vectors than before")

    def _measure(self) -> None:
        for name, process in processes(self._server).items():
            self.report.memory.setdefault(name, []).append(process.memory_info().rss)


def processes(server: Server) -> dict[str, psutil.Process]:
    """The front end, Triton and the processes of its models, by name and number; converters come and go."""
    assert server.process is not None
    front_end = psutil.Process(server.process.pid)
    found = {"front end": front_end}
    for child in front_end.children(recursive=True):
        if "triton" in child.name():
            found[f"{child.name()} {child.pid}"] = child
    return found
