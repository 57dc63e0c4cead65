import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.tiny_onnx import expected, table, write_model
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.sessions import EngineName
from triton_models.backends.onnxruntime.sub_batches import PADDED_TOKENS
from triton_models.contract.tokens import ROW_START

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 stream", "2 streams"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    path = tmp_path_factory.mktemp("engine") / "model.onnx"
    write_model(path, seed=1, tokens=True)
    return Engine(path, threads=2, streams=request.param)


def test_nothing_is_reported_to_anybody(tmp_path: Path) -> None:
    # Where ONNX Runtime reports, it keeps its reports in a database below the home directory.
    program = "import triton_models.backends.onnxruntime.engine"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=environment, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def _rows(lengths: list[int]) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 100, length) for length in lengths]


def _run(engine: Engine, rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    return engine.run(np.concatenate(rows), np.array([row.size for row in rows], np.int32))


def test_rows_of_all_lengths_come_back_in_order(engine: Engine) -> None:
    rows = _rows([3, 1, 30, 7, 1, 512])
    got = _run(engine, rows)
    assert got.dtype == np.float32
    for vector, row in zip(got, rows, strict=True):
        np.testing.assert_allclose(vector, expected(1, row[None])[0], atol=1e-5)


def test_a_batch_over_the_budget_gives_the_same_vectors(engine: Engine) -> None:
    rows = _rows([5000, 3, 4000, 17, 5000, 1, 5000, 20000, 2])
    assert len(rows) * 20000 > PADDED_TOKENS
    for vector, row in zip(_run(engine, rows), rows, strict=True):
        np.testing.assert_allclose(vector, expected(1, row[None])[0], atol=1e-4)


def test_flags_change_nothing(engine: Engine) -> None:
    ids, lengths = np.arange(5), np.array([2, 3], np.int32)
    assert np.array_equal(engine.run(ids, lengths), engine.run(ids | ROW_START, lengths))


@pytest.mark.parametrize("lengths", [[], [0, 5], [-1, 6], [4], [6]])
def test_lengths_that_do_not_fit_are_refused(engine: Engine, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        engine.run(np.arange(5), np.array(lengths, np.int32))


def _run_tokens(engine: Engine, rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    return engine.run_tokens(np.concatenate(rows), np.array([row.size for row in rows], np.int32))


def test_vectors_of_tokens_come_in_the_order_of_the_ids(engine: Engine) -> None:
    rows = _rows([5000, 3, 1, 30, 7, 5000, 1, 512])
    np.testing.assert_array_equal(_run_tokens(engine, rows), table(1)[np.concatenate(rows)])


def test_openvino_gives_texts_their_vectors_and_leaves_tokens_to_onnx_runtime(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx", seed=1, tokens=True)
    engine = Engine(tmp_path / "model.onnx", threads=2, name=EngineName("openvino", "fp32"), streams=2)
    rows = _rows([3, 40, 7])
    for vector, row in zip(_run(engine, rows), rows, strict=True):
        np.testing.assert_allclose(vector, expected(1, row[None])[0], atol=1e-5)
    np.testing.assert_array_equal(_run_tokens(engine, rows), table(1)[np.concatenate(rows)])
    with pytest.raises(ValueError, match="lengths"):
        engine.run_tokens(np.arange(5), np.array([4], np.int32))


AT_ONCE = """
import sys, threading
from pathlib import Path
import numpy as np
from triton_models.backends.onnxruntime.sessions import OpenVinoSession

session = OpenVinoSession(Path(sys.argv[1]), 2, "fp32", 2)
together, vectors = threading.Barrier(2), []
sys.setswitchinterval(1e-6)

def run():
    together.wait()
    vectors.append(session.run(np.arange(3), np.array([3], np.int32)))

threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert np.array_equal(*vectors)
"""
"""The first two runs of a process, at the same moment."""


def test_the_first_runs_of_openvino_may_come_together(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx", seed=1)
    # In a run of OpenVINO's bindings as they are, two of three hang.
    for _ in range(5):
        command = [sys.executable, "-c", AT_ONCE, str(tmp_path / "model.onnx")]
        subprocess.run(command, cwd=PROJECT, check=True, timeout=60)
