"""Rules by which a request is answered by the record of another."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.inference_store import processes
from tests.inference_store.played_target import Played, played
from tests.inference_store.test_modes import error, infer, request


@pytest.fixture
def target() -> Iterator[Played]:
    with played() as running:
        yield running


def test_looser_rules(target: Played, tmp_path: Path, log: Path) -> None:
    path = str(tmp_path / "r")
    with processes.store(log, "collect", "--target", target.url, "--path", path) as store:
        recorded = request(1, 2)
        recorded.parameters["priority"].int64_param = 1
        infer(store.url, recorded)
        infer(store.url, request(1.004, 2, outputs=("B",)))
    rules = ("--subset-outputs", "--tolerance", "0.01", "--ignore-parameters", "priority")
    with processes.store(log, "serve", "--path", path, *rules) as store:
        answer = infer(store.url, request(1.001, 2, outputs=("B",), id="q"))
        assert answer.id == "q"
        assert [output.name for output in answer.outputs] == ["B"]
        # The closer one of two that suffice.
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1, 2]
        assert len(infer(store.url, request(1.009, 2)).outputs) == 2
        assert error(store.url, request(1.02, 2))[0] == "FAILED_PRECONDITION"
        assert error(store.url, request(float("nan"), 2))[0] == "FAILED_PRECONDITION"
        assert error(store.url, request(1, 2, outputs=("C", "B")))[0] == "FAILED_PRECONDITION"
    with processes.store(log, "serve", "--path", path) as store:
        assert error(store.url, request(1, 2, outputs=("B",)))[0] == "FAILED_PRECONDITION"
