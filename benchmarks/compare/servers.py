"""The servers under comparison: their commands, requests and answers."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.environments import PEERS, ROOT, WORK, model_files, offline, python
from benchmarks.loadtest.connection import head, with_body
from benchmarks.loadtest.server import ask
from benchmarks.loadtest.settings import DEFAULT_MODEL as MODEL

HOST = "127.0.0.1"
JSON = {"Content-Type": "application/json"}
TIMEOUT_SECONDS = 600.0
"""The timeout of a request and of a start; the first start of our server converts the model."""

READY_ANSWERS = 8
ONNX = WORK / "onnx"


class ServerFailed(Exception):
    """A server did not start; the message is the end of its log."""


@dataclass(frozen=True)
class Dialect:
    """A route with a writer of bodies and a reader of answers."""

    route: str
    body: Callable[[Sequence[str]], dict[str, Any]]
    vectors: Callable[[bytes], Any]
    """Reads what numpy makes an array of."""
    headers: dict[str, str] = field(default_factory=dict)

    def content(self, inputs: Sequence[str]) -> bytes:
        """Write the body of a request for these inputs."""
        return json.dumps(self.body(inputs), ensure_ascii=False).encode()

    def request(self, address: tuple[str, int], inputs: Sequence[str]) -> bytes:
        """Build the bytes of one request for these inputs."""
        return with_body(head(address, self.route, {**JSON, **self.headers}), self.content(inputs))


@dataclass(frozen=True)
class Server:
    """One server of the comparison."""

    name: str
    title: str
    environment: str
    """The name of its virtual environment; "" is the project's own."""
    command: tuple[str, ...]
    """The arguments after the interpreter; {port}, {model} and {onnx} are filled in."""
    text: Dialect
    image: Dialect | None = None
    variables: dict[str, str] = field(default_factory=dict)
    directory: Path = ROOT
    load_route: str | None = None
    """The route that answers once the model is ready and checked; without one, the first vector is enough."""
    load_body: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """True for this project's server."""
        return not self.environment

    @property
    def repository(self) -> Path:
        """The model repository of our server."""
        return Path(self.variables["MODEL_REPOSITORY"])


def ours_dialect(route: str, field: str, model: dict[str, str]) -> Dialect:
    """Return the dialect of one of our routes that takes a single kind of input."""
    return Dialect(
        route,
        lambda inputs: {**model, field: inputs[0] if len(inputs) == 1 else list(inputs)},
        lambda answer: json.loads(answer)["embedding"],
    )


def openai_dialect(model: str, route: str = "/embeddings", **fields: str) -> Dialect:
    """Return the dialect of OpenAI's embeddings route, by default where infinity-emb has it."""
    return Dialect(
        route,
        lambda inputs: {"model": model, "input": list(inputs), **fields},
        lambda answer: [item["embedding"] for item in json.loads(answer)["data"]],
    )


def _infinity_command(name: str, model: str, engine: str, *more: str) -> tuple[str, ...]:
    """Return the arguments that start infinity-emb with a model under a name."""
    start = ("-c", "from infinity_emb.cli import cli; cli()", "v2", "--served-model-name", name)
    return (*start, "--host", HOST, "--port", "{port}", "--model-id", model, "--engine", engine, *more)


def our_server(
    directory: Path, model: dict[str, str], load_route: str, image: Dialect | None = None, **variables: str
) -> Server:
    """Return our server with one model, and its repository in `directory`."""
    own = {"MODEL_REPOSITORY": f"{directory}/model_repository", "LOAD_MODELS": ":".join(model.values())}
    return Server(
        "ours",
        "this server",
        "",
        ("app.py",),
        ours_dialect("/infer_text", "text", model),
        image,
        {**own, "PORT": "{port}", "HOST": HOST, **variables},
        load_route=load_route,
        load_body=model,
    )


def infinity(name: str, model: str, image: Dialect | None = None) -> Server:
    """Return infinity-emb on torch with a model under a name."""
    command = _infinity_command(name, model, "torch")
    return Server("infinity", "infinity-emb, torch", "infinity", command, openai_dialect(name), image)


def _plain(name: str, title: str, model: str) -> Server:
    command = (f"{PEERS}/plain_server.py", name, model, "{port}")
    dialect = replace(ours_dialect("/embed", "text", {}), body=lambda texts: {"text": list(texts)})
    return Server(name, title, name, command, dialect)


_INFINITY = infinity("minilm", "{model}")
# optimum-onnx would not find the file that infinity names by an absolute path.
_OPTIMUM = _infinity_command("minilm", ".", "optimum", "--pooling-method", "mean")

OURS = our_server(WORK, {"model_name": MODEL}, "/load_sentence_transformer_model")
_TWO_FRONT_ENDS = {**OURS.variables, "WEB_CONCURRENCY": "2"}
SERVERS = (
    OURS,
    replace(OURS, name="ours-2-workers", title="this server, 2 front ends", variables=_TWO_FRONT_ENDS),
    _INFINITY,
    replace(
        _INFINITY, name="infinity-optimum", title="infinity-emb, optimum", command=_OPTIMUM, directory=ONNX
    ),
    _plain("plain", "sentence-transformers, plain FastAPI", "{model}"),
    _plain("fastembed", "fastembed, plain FastAPI", "{onnx}"),
)


@dataclass(frozen=True)
class Running:
    """A running server that answers."""

    server: Server
    port: int
    pid: int

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port."""
        return HOST, self.port

    def dialect(self, kind: str) -> Dialect:
        """Return the dialect for a kind of input."""
        dialect = self.server.image if kind == "images" else self.server.text
        assert dialect is not None
        return dialect

    def request(self, kind: str, inputs: Sequence[str]) -> bytes:
        """Build the bytes of one request for these inputs."""
        return self.dialect(kind).request(self.address, inputs)

    def exchange(self, method: str, route: str, content: bytes | None = None) -> bytes:
        """Send one request over a connection of its own and return the body of the answer.

        Raises:
            OSError: There is no answer of status 200.
        """
        answer = ask(self.address, method, route, content, JSON, TIMEOUT_SECONDS)
        if answer.status_code != 200:
            raise ConnectionError(f"HTTP {answer.status_code} : {answer.text[:200]}")
        return answer.content

    def embed(self, kind: str, inputs: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of the inputs, float32 [n, D], in one request.

        Raises:
            OSError: There is no answer of status 200.
        """
        dialect = self.dialect(kind)
        answer = self.exchange("POST", dialect.route, dialect.content(inputs))
        return np.asarray(dialect.vectors(answer), np.float32)


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start a server on a free port of the loopback interface, and end it afterwards.

    Raises:
        ServerFailed: The server ended, or did not answer in time.
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
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", up: Running, log: Path) -> None:
    """Wait until the server has embedded several times, as each of several gateways starts separately."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if up.server.load_route:
                up.exchange("POST", up.server.load_route, json.dumps(up.server.load_body).encode())
            for _ in range(READY_ANSWERS):
                up.embed("text", ["ready"])
        except OSError as error:
            # The server is not listening or not ready yet. If it refuses the model, waiting does not help.
            if " 422 " in str(error):
                raise ServerFailed(str(error)) from error
            time.sleep(0.2)
        else:
            return
    raise ServerFailed(log.read_text(encoding="utf-8", errors="replace").strip()[-600:])
