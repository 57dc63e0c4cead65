"""Converted tiny models with known vectors, servers that run them, and the table of the faults' effects.

`--fault-table FILE` writes the table in Markdown; `scripts/faults` uses it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tests.conftest import Server
from tests.faults.load import Load, Pool
from tests.faults.table import markdown
from tests.support.converted_models import BERT as BERT_MODEL
from tests.support.converted_models import NORMALIZED, Stock
from tests.support.vectors import cosines, embed

Note = Callable[[str, Load], None]
MakeLoad = Callable[..., Load]

NAMES = BERT, OTHER = BERT_MODEL, NORMALIZED
LIMIT = 10
"""REQUEST_TIMEOUT of the servers here, in seconds."""

TEXTS = [
    " ".join(f"{word} {number * step}" for step in range(1, 2 + number % 9))
    for number in range(50)
    for word in ("a dog", "the deep sea", "Überraschung", "42", "潜水", "naïve café", "x", "diver's watch")
]

FEW = TEXTS[:3]

_rows: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Farm:
    """Makes servers with copies of the stock, each in its own directory."""

    stock: Stock

    @property
    def settings(self) -> dict[str, str]:
        return {
            "MODEL_SOURCES": str(self.stock.sources),
            "LOAD_MODELS": ",".join(NAMES),
            "REQUEST_TIMEOUT": str(LIMIT),
        }

    def server(self, directory: Path, *arguments: str, **settings: str) -> Server:
        for name in NAMES:
            self.stock.put(directory / "repository", name)
        environment = {**self.settings, **settings}
        return Server(
            directory / "repository", environment, directory / "server.log", arguments or ("app.py",)
        )


@pytest.fixture(scope="session")
def farm(stock: Stock) -> Farm:
    return Farm(stock)


@pytest.fixture(scope="module")
def shared(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one server for the tests of a file; each test leaves it serving."""
    server = farm.server(tmp_path_factory.mktemp("shared"))
    with server.running():
        wait_loaded(server)
        yield server


def wait_loaded(server: Server) -> None:
    """Wait until both models serve; `/health` is not enough, since it requires only one."""
    for name in NAMES:
        with server.client() as client:
            answer = client.post("/load_sentence_transformer_model", json={"model_name": name})
            assert answer.status_code == 200, answer.text


@pytest.fixture(scope="session")
def pools(stock: Stock) -> dict[str, Pool]:
    """Return inputs and vectors of the reference by model, computed without load."""
    made = {}
    for name in NAMES:
        model = SentenceTransformer(str(stock.sources / name), device="cpu")
        made[name] = Pool({"model_name": name}, TEXTS, np.asarray(model.encode(TEXTS), np.float32))
    # Otherwise vectors of the wrong model would pass unnoticed.
    assert cosines(made[BERT].vectors, made[OTHER].vectors).max() < 0.9
    return made


@pytest.fixture
def load(pools: dict[str, Pool]) -> Callable[..., Load]:
    """Return a function that makes a load on a server, by default on both models."""

    def make(server: Server, *, names: tuple[str, ...] = NAMES, connections: int = 8) -> Load:
        return Load(server.port, [pools[name] for name in names], connections=connections, limit=LIMIT)

    return make


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str, Load], None]:
    """Return a function that adds the results of a load to the table."""

    def put(fault: str, load: Load) -> None:
        record_property("fault", {"fault": fault, **load.row()})

    return put


def vectors(server: Server) -> NDArray[np.float32]:
    """Return BERT's vectors of FEW."""
    with server.client() as client:
        return embed(client, FEW, BERT)


def right(server: Server, pool: Pool) -> None:
    """Check that one request with all of the pool's inputs gets the right vectors."""
    with server.client() as client:
        assert cosines(embed(client, list(pool.inputs), pool.name), pool.vectors).min() >= 0.99999


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", help="write the table of faults to this file, in Markdown")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        found: Any = (value for name, value in report.user_properties if name == "fault")
        _rows.extend({**row, "test": report.nodeid, "passed": report.passed} for row in found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _rows:
        return
    table = markdown(_rows)
    terminalreporter.section("faults")
    terminalreporter.write_line(table)
    if path := config.getoption("--fault-table", default=None):
        Path(path).write_text(table + "\n")
