"""The servers that are compared: how each is started, asked and read."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.environments import MODEL, ROOT, WORK, model_files, offline, python
from benchmarks.loadtest.raw_http import HOST, exchange_once, post

START_SECONDS = 600
"""The first start of ours converts the model."""


READY_ANSWERS = 8


class ServerFailed(Exception):
    """A server did not come up; the text is the end of its log."""


@dataclass(frozen=True)
class Dialect:
    """A route and the JSON on both sides of it."""

    route: str
    body: Callable[[Sequence[str]], dict[str, Any]]
    vectors: Callable[[Any], list[list[float]]]

    def request(self, texts: Sequence[str]) -> bytes:
        """One HTTP request for these texts."""
        return post(self.route, json.dumps(self.body(texts), ensure_ascii=False).encode())


@dataclass(frozen=True)
class Server:
    """One contestant."""

    name: str
    title: str
    environment: str
    """Name of its virtual environment; "" is the project's own."""
    command: tuple[str, ...]
    """Arguments after the interpreter; {port}, {model} and {onnx} are filled in."""
    dialect: Dialect
    variables: dict[str, str] = field(default_factory=dict)
    directory: Path = ROOT
    load_route: str | None = None
    """Answers once the model serves and has been checked; without it, the first answer is enough."""
    load_body: dict[str, str] = field(default_factory=lambda: {"model_name": MODEL})

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return not self.environment


def openai_vectors(answer: Any) -> list[list[float]]:  # noqa: ANN401 - parsed JSON
    """Of an answer of OpenAI's embeddings route."""
    return [item["embedding"] for item in sorted(answer["data"], key=lambda item: int(item["index"]))]


_OURS = Dialect(
    "/infer_text",
    lambda texts: {"model_name": MODEL, "text": texts[0] if len(texts) == 1 else list(texts)},
    lambda answer: list(answer["embedding"]),
)
_OPENAI = Dialect("/embeddings", lambda texts: {"model": "minilm", "input": list(texts)}, openai_vectors)
_PLAIN = Dialect("/embed", lambda texts: {"text": list(texts)}, lambda answer: list(answer["embedding"]))

REPOSITORY = WORK / "model_repository"
ONNX = WORK / "onnx"
_OUR_VARIABLES = {"MODEL_REPOSITORY": str(REPOSITORY), "LOAD_MODELS": MODEL, "PORT": "{port}", "HOST": HOST}
_LOAD = "/load_sentence_transformer_model"
_INFINITY = (
    *("-c", "from infinity_emb.cli import cli; cli()", "v2", "--served-model-name", "minilm"),
    *("--host", HOST, "--port", "{port}"),
)

SERVERS = (
    Server("ours", "this server", "", ("app.py",), _OURS, _OUR_VARIABLES, load_route=_LOAD),
    Server(
        "ours-2-workers",
        "this server, 2 front ends",
        "",
        ("app.py",),
        _OURS,
        {**_OUR_VARIABLES, "WEB_CONCURRENCY": "2"},
        load_route=_LOAD,
    ),
    Server(
        "infinity",
        "infinity-emb, torch",
        "infinity",
        (*_INFINITY, "--model-id", "{model}", "--engine", "torch"),
        _OPENAI,
    ),
    Server(
        "infinity-optimum",
        "infinity-emb, optimum",
        "infinity",
        # With an absolute path optimum-onnx does not find the file that infinity names.
        (*_INFINITY, "--model-id", ".", "--engine", "optimum", "--pooling-method", "mean"),
        _OPENAI,
        directory=ONNX,
    ),
    Server(
        "plain",
        "sentence-transformers, plain FastAPI",
        "plain",
        (str(ROOT / "benchmarks/compare/peers/plain.py"), "{model}", "{port}"),
        _PLAIN,
    ),
    Server(
        "fastembed",
        "fastembed, plain FastAPI",
        "fastembed",
        (str(ROOT / "benchmarks/compare/peers/fastembed_server.py"), "{onnx}", "{port}"),
        _PLAIN,
    ),
)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    port: int
    pid: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Vectors of the texts by one request, [n, D].

        Raises:
            OSError: no answer, or another status than 200.
        """
        dialect = self.server.dialect
        answer = json.loads(exchange_once(self.port, dialect.request(texts)))
        return np.array(dialect.vectors(answer))


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start it on a free port of the loopback interface, wait until it answers, end it and all of its own.

    Raises:
        ServerFailed: it ended or did not answer.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    names = {"port": str(port), "model": str(model_files()), "onnx": str(ONNX)}
    log = WORK / "logs" / f"{server.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {name: value.format(**names) for name, value in server.variables.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python(server.environment)), *(part.format(**names) for part in server.command)],
            cwd=server.directory,
            env={**offline(), **variables},
            stdout=output,
            stderr=output,
        )
    try:
        up = Running(server, port, process.pid)
        _wait(process, up, log)
        yield up
    finally:
        _end(process)


def _wait(process: "subprocess.Popen[bytes]", up: Running, log: Path) -> None:
    """Until it embeds; several times, since each of several workers comes up by itself."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if up.server.load_route:
                body = json.dumps(up.server.load_body).encode()
                exchange_once(up.port, post(up.server.load_route, body))
            for _ in range(READY_ANSWERS):
                up.embed(["ready"])
        except OSError as error:
            # Not listening yet, or not ready; a refused model does not become better by waiting.
            if " 422 " in str(error):
                raise ServerFailed(str(error)) from error
            time.sleep(0.2)
        else:
            return
    raise ServerFailed(log.read_text(encoding="utf-8", errors="replace").strip()[-600:])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
