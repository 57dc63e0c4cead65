"""The choice of an engine for a GPU, as far as it needs none."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_onnx import expected, write_model
from triton_models.backends.onnxruntime import engine_selection
from triton_models.backends.onnxruntime.engine_selection import Measurement, Selection, Trial, judge
from triton_models.backends.onnxruntime.gpu_selection import gpu_engine_for
from triton_models.backends.onnxruntime.machine import gpu
from triton_models.backends.onnxruntime.packed_files import GRAPH
from triton_models.backends.onnxruntime.sessions import DEFAULT, TORCH_ENGINES, EngineName, problem_of
from triton_models.backends.onnxruntime.towers import TextTower
from triton_models.contract.accuracy import BOUNDS

GPU = "cuda:0"
FP16, BF16 = TORCH_ENGINES


class Measures:
    """Times of the engines, None for one that is refused; keeps which were measured."""

    def __init__(self, **seconds: float | None) -> None:
        self.seconds = seconds
        self.asked: list[str] = []

    def __call__(self, name: EngineName) -> Measurement:
        self.asked.append(str(name))
        taken = self.seconds[name.precision]
        return Measurement(str(name), 1, taken, 1.0, 1.0, None if taken else "it computes something else")


@pytest.fixture(autouse=True)
def _auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE", raising=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / GRAPH).write_text(json.dumps({"nodes": []}))
    return tmp_path


def test_the_fastest_engine_that_is_right_is_recorded_for_this_kind_of_gpu(directory: Path) -> None:
    measures = Measures(fp16=2.0, bf16=1.0, fp32=9.0)
    chosen = gpu_engine_for(directory, 2, GPU, measures)
    assert chosen.engine == "torch:bf16"
    assert engine_selection.read(directory) == chosen
    assert chosen.machine == gpu(GPU)
    asked = list(measures.asked)
    assert gpu_engine_for(directory, 2, GPU, measures) == chosen
    assert measures.asked == asked
    # What was found on another kind of GPU, or on the CPU, is measured again.
    engine_selection.write(Selection("torch:fp16", 1, "another GPU", 2, False, []), directory)
    assert gpu_engine_for(directory, 2, GPU, measures) == chosen
    assert gpu_engine_for(directory, 2, GPU, Measures(fp16=1.0, bf16=2.0, fp32=9.0), anew=True).name == FP16


def test_onnx_runtime_serves_where_no_precision_of_torch_is_right(directory: Path) -> None:
    measures = Measures(fp16=None, bf16=None, fp32=9.0)
    chosen = gpu_engine_for(directory, 2, GPU, measures)
    assert chosen.name == DEFAULT
    assert [one.refused for one in chosen.measured] == ["it computes something else"] * 2 + [None]
    assert measures.asked == ["torch:fp16", "torch:bf16", str(DEFAULT)]


def test_a_model_without_a_graph_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = gpu_engine_for(tmp_path, 2, GPU, Measures())
    assert chosen.name == DEFAULT
    assert "convert it again" in str(chosen.measured[0].refused)
    (tmp_path / GRAPH).write_text(json.dumps({"refused": "its attention is not packed"}))
    monkeypatch.setenv("ENGINE", "torch:fp16")
    chosen = gpu_engine_for(tmp_path, 2, GPU, Measures())
    assert (chosen.name, chosen.measured[0].refused) == (DEFAULT, "its attention is not packed")


def test_the_operator_fixes_the_engine(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fixed, expected_name in (
        ("torch:bf16", BF16),
        ("onnxruntime:fp32", DEFAULT),
        ("openvino:fp32", DEFAULT),
    ):
        monkeypatch.setenv("ENGINE", fixed)
        chosen = gpu_engine_for(directory, 2, GPU, Measures())
        assert (chosen.name, chosen.fixed_by_operator) == (expected_name, True)


def test_torch_is_refused_where_there_is_no_gpu() -> None:
    assert problem_of("torch:fp16") == "torch:fp16 needs a GPU; use auto"


def test_engines_of_a_gpu_are_judged_by_the_conversions_precision() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    off = np.array([[1.0, 0.02], [0.0, 1.0]], np.float32)

    def trial() -> Trial:
        return Trial(off, off, lambda: 1.0)

    assert "at least 0.9999 is needed" in str(judge(FP16, 1, reference, trial).refused)
    assert judge(FP16, 1, reference, trial, BOUNDS["fp16"]).refused is None


def test_a_model_of_a_cpu_is_served_by_onnx_runtime_where_the_operator_asks_for_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE", "torch:fp16")
    write_model(tmp_path / "model.onnx", seed=1)
    tower = TextTower(tmp_path, 2, "input_ids")
    assert tower.name.startswith(str(DEFAULT))
    rows = np.array([[3, 4, 5]], np.int64)
    np.testing.assert_allclose(tower.run([rows])[0], expected(1, rows), atol=1e-6)
