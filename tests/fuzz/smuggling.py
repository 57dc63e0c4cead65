"""Sends cases of `framing.py` and holds each answer against the request that it must belong to."""

import asyncio
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.fuzz.framing import Asked, Case, digest, made

SECONDS = 30.0
"""For all of a case; it takes milliseconds."""

AT_A_TIME = 24
VICTIMS = 2
CUT = "no answer"
EARLY = "an answer ends too early"
RETRIES = 4
PAUSE = 0.002
"""Seconds between two pieces, so that they come as two."""

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


class Echo:
    """Answers each request with its path and what its body was; `/early/` ones before reading any of it."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.done[path] += 1
        try:
            body = "" if path.startswith("/early/") else digest(await Request(scope, receive).body())
        except ClientDisconnect:
            return
        marks = [value.decode() for name, value in scope["headers"] if name == b"x-mark"]
        response: Response = JSONResponse(
            {"body": body}, headers={"X-Path": path, "X-Marks": ",".join(marks)}
        )
        await response(scope, receive, send)


@dataclass(frozen=True)
class Answer:
    """path: of the request that the application answered; empty where it was another's answer."""

    status: int
    path: str
    marks: str
    body: bytes


@dataclass
class Report:
    """What was seen."""

    cases: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    victims: int = 0
    retried: int = 0
    faults: list[str] = field(default_factory=list)


def answers(content: bytes, asked: list[Asked]) -> list[Answer]:
    """All that came on one connection; the methods of the requests say which answers have a body."""
    found: list[Answer] = []
    while content:
        head, end, content = content.partition(b"\r\n\r\n")
        match = _STATUS.match(head)
        assert match is not None, f"{CUT}: {head[:200]!r}"
        assert end, "a head ends too early"
        status = int(match[1])
        if status == 100:
            continue
        lines = head.split(b"\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = int(headers.get(b"content-length", len(content)))
        # A proxy's own refusal has a body in any case.
        of_head = len(found) < len(asked) and asked[len(found)].method == "HEAD"
        if of_head and (status == 200 or not content or content.startswith(b"HTTP/")):
            length = 0
        path, marks = headers.get(b"x-path", b"").decode(), headers.get(b"x-marks", b"").decode()
        found.append(Answer(status, path, marks, content[:length]))
        assert len(content) >= length, EARLY
        content = content[length:]
    return found


def fault_of(asked: Asked, answer: Answer) -> str | None:
    """How an answer of the application does not fit a request."""
    if answer.status != 200:
        return f"{answer.status} {answer.body[:100]!r}"
    if answer.path != asked.path:
        return f"the answer to {answer.path}"
    # A proxy may join a folded line to the header before it.
    if answer.marks.partition(" ")[0] not in ("", asked.path.rpartition("/")[2]):
        return f"headers of {answer.marks}"
    read = "" if asked.path.startswith("/early/") else digest(asked.body)
    if asked.method != "HEAD" and asked.fate != "refused" and json.loads(answer.body)["body"] != read:
        return f"a body of {answer.body!r}, sent {read}"
    return None


def direct_fault(case: Case, found: list[Answer]) -> str | None:
    """What is wrong with the answers of the server itself; None for nothing."""
    for number, one in enumerate(case.asked):
        rest = found[number:]
        if not rest:
            return f"no answer to {one}"
        refused = one.fate == "refused" and not (one.path.startswith("/early/") and rest[0].status == 200)
        if refused:
            if rest[0].status not in (400, 501, 505) or rest[0].path:
                return f"{one} answered {rest[0]}"
        elif (wrong := fault_of(one, rest[0])) is not None:
            return f"{one} answered {wrong}"
        if one.fate in ("last", "refused") or (one.fate == "early" and len(rest) == 1):
            return f"after {one} came {rest[1:]}" if len(rest) > 1 else None
    return None


def proxied_fault(case: Case, found: list[Answer]) -> str | None:
    """The same behind a proxy, which refuses by its own rules, and words anew what it lets through."""
    good = True
    for number, answer in enumerate(found):
        if number == len(case.asked):
            return f"one too many: {answer}"
        one = case.asked[number]
        if one.path.startswith("/none/") and answer.path == "/":
            # Bare LFs, say, which it writes anew.
            continue
        good = good and one.fate != "refused"
        if (good or answer.path) and (wrong := fault_of(one, answer)) is not None:
            return f"{one} answered {wrong}"
    owed = []
    for one in case.asked:
        if one.fate == "refused":
            break
        owed.append(one)
        if one.fate == "last" or one.path.startswith("/early/"):
            # What a proxy does whose request is answered before it is sent is its own affair.
            break
    return f"lost: {owed[len(found) :]}" if len(found) < len(owed) else None


async def exchange(port: int, pieces: list[bytes]) -> tuple[bytes, bool]:
    """All that comes until the other side closes the connection; whether TCP reset it.

    It is reset where more was sent than the other side read. TCP drops what has not been read here then.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    parts: list[bytes] = []
    is_reset = False

    async def read() -> None:
        nonlocal is_reset
        try:
            while part := await reader.read(1 << 16):
                parts.append(part)
        except ConnectionError:
            is_reset = True

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(SECONDS):
            for number, piece in enumerate(pieces):
                if number:
                    await asyncio.sleep(PAUSE)
                if reading.done():
                    break
                writer.write(piece)
            await reading
    finally:
        reading.cancel()
        writer.transport.abort()
    return b"".join(parts), is_reset


class Attack:
    """Cases at some ports of one application. direct: the port without a proxy. between: as of made."""

    def __init__(
        self, ports: dict[str, int], direct: str, echo: Echo, seed: int, between: bytes = b"\r\n"
    ) -> None:
        self._between = between
        self._ports = ports
        self._direct = direct
        self._echo = echo
        self._seed = seed
        self.report = Report()

    async def run(self, cases: int) -> Report:
        """So many, in turns at every port, with victims beside them."""
        numbers = iter(range(cases))
        ended = asyncio.Event()
        victims = [
            asyncio.create_task(self._victim(name, number, ended))
            for name in self._ports
            for number in range(VICTIMS)
        ]

        async def work() -> None:
            for number in numbers:
                await self._try(number)

        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
        ended.set()
        await asyncio.gather(*victims)
        hidden = [path for path in self._echo.done if path.startswith("/hidden/")]
        if hidden:
            self.report.faults.append(f"executed out of bodies: {hidden[:5]} of {len(hidden)}")
        return self.report

    async def _try(self, number: int) -> None:
        name = list(self._ports)[number % len(self._ports)]
        case = made(random.Random(f"{self._seed} {number}"), f"{number:x}", self._between)
        if b"PRI *" in case.content and name == "HAProxy":
            # It speaks HTTP/2 to clients that begin so.
            return
        self.report.cases[name] += 1
        self.report.requests.update(one.fate for one in case.asked)
        wrong, came, is_reset = await self._tried(name, case)
        for _ in range(RETRIES):
            if wrong is None or not self._is_the_proxys(name, case, wrong, came, is_reset):
                break
            self.report.retried += 1
            wrong, came, is_reset = await self._tried(name, case)
        if wrong is not None:
            text = (
                f"{name}, seed {self._seed}, case {number}: {wrong}\n{came[:3000]!r}\n{case.content[:1500]!r}"
            )
            self.report.faults.append(f"{text}\nin pieces of {[len(one) for one in case.pieces][:50]}")

    def _is_the_proxys(self, name: str, case: Case, wrong: str, came: bytes, is_reset: bool) -> bool:
        """Return whether a proxy may have done this by itself, so that a client tries again.

        A proxy that closes a connection before it has read all resets it. HAProxy 2.6 closes a client's
        connection without a word where a kept one to the server has gone, at its first request or a later
        one; and of some answers after 100 it sends the head alone.
        """
        cut = b"Expect" in case.content and (CUT in wrong or EARLY in wrong)
        lost = not came or wrong.startswith("lost") or cut
        return name != self._direct and (is_reset or (name == "HAProxy" and lost))

    async def _tried(self, name: str, case: Case) -> tuple[str | None, bytes, bool]:
        """What is wrong, all that came, and whether the connection was reset."""
        came, is_reset = b"", False
        try:
            came, is_reset = await exchange(self._ports[name], case.pieces)
            found = answers(came, case.asked)
        except (AssertionError, OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}", came, is_reset
        if name != self._direct:
            return proxied_fault(case, found), came, is_reset
        return direct_fault(case, found) or self._executed(case, found), came, is_reset

    def _executed(self, case: Case, found: list[Answer]) -> str | None:
        for one in case.asked[: len(found)]:
            times = self._echo.done.pop(one.path, 0)
            if times != 1 and one.fate != "refused":
                return f"{one} was executed {times} times"
        return None

    async def _victim(self, name: str, number: int, ended: asyncio.Event) -> None:
        """Somebody else, on the same connections to the server where there is a proxy."""
        turn = 0
        while not ended.is_set():
            turn += 1
            mark = f"{name}-{number}-{turn}".replace(", ", "-")
            one = Asked(f"/victim/{mark}", "POST", mark.encode(), "last")
            head = b"POST %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Mark: %s\r\nContent-Length: %d"
            filled = head % (one.path.encode(), one.body, len(one.body)) + b"\r\n\r\n" + one.body
            try:
                found = answers((await exchange(self._ports[name], [filled]))[0], [one])
                wrong = f"{len(found)} answers" if len(found) != 1 else fault_of(one, found[0])
            except (AssertionError, OSError, TimeoutError) as error:
                wrong = f"{type(error).__name__}: {error}"
            self.report.victims += 1
            if wrong is not None:
                self.report.faults.append(f"{name}: the victim of {one.path}: {wrong}")
            await asyncio.sleep(0.02)
