"""Malformed requests at a running server: no failure of its own, no process less, no memory lost."""

import asyncio
import os
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import MINILM, Server
from tests.fuzz.malformed import Fuzzer, Report
from tests.support import tiny_models
from tests.support.tiny_clip import config, write_clip

CLIP = "hf-hub:tiny/clip"
GROWTH = 0.05


def show(report: Report) -> None:
    for kind, statuses in sorted(report.statuses.items()):
        sys.stdout.write(f"{kind}: {dict(statuses.most_common())}\n")
    for name, sizes in report.memory.items():
        sys.stdout.write(f"{name}: {', '.join(f'{size >> 20}' for size in sizes[::10])} MB\n")


def test_some_hundred_malformed_requests(server: Server) -> None:
    report = asyncio.run(Fuzzer(server, MINILM, None).run(400))
    show(report)
    assert report.faults == []
    assert report.good > 5


@pytest.fixture
def large_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a text model and a CLIP model, and a response cache that is soon full."""
    root = tmp_path_factory.mktemp("fuzzed")
    write_clip(root / "sources" / "tiny" / "clip", config())
    tiny_models.transformer_model(root / "sources" / "tiny" / "bert")
    settings = {"MODEL_SOURCES": str(root / "sources"), "RESPONSE_CACHE": "local:4194304"}
    server = Server(root / "repository", settings, root / "server.log")
    with server.running():
        with server.client() as client:
            for route, name in (("sentence_transformer", "tiny/bert"), ("clip", CLIP)):
                answer = client.post(f"/load_{route}_model", json={"model_name": name})
                assert answer.status_code == 200, answer.text
        yield server


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_malformed_requests(large_server: Server) -> None:
    requests = int(os.environ.get("FUZZ_REQUESTS", "10000"))
    report = asyncio.run(Fuzzer(large_server, "tiny/bert", CLIP).run(requests))
    show(report)
    sys.stdout.write(f"growth: {report.growth()}\n")
    assert report.faults == []
    # A converter that ends with an error says where, for the operator.
    lines = large_server.log.read_text().splitlines()
    assert [line for line in lines if "Traceback" in line and "the converter: " not in line] == []
    assert max(report.growth().values()) <= GROWTH
