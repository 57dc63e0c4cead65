"""Choosing an engine by measurement, on a model whose vectors are known."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from gateway.settings import ENGINE_NAMES
from tests.support.tiny_onnx import VOCAB_SIZE, expected, write_model
from triton_models.backends.onnxruntime import engine_selection
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.machine import machine
from triton_models.backends.onnxruntime.sample import Sample
from triton_models.backends.onnxruntime.sessions import (
    DEFAULT,
    ENGINES,
    TORCH_ENGINES,
    UnknownEngine,
    parse_engine,
)
from triton_models.backends.onnxruntime.towers import TextTower, opened
from triton_models.contract.accuracy import cosines

LENGTHS = [1, 2, 3, 7, 15, 16, 17, 31, 33, 64]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model with the sample that the converter leaves."""
    write_model(tmp_path / "model.onnx", seed=1)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, VOCAB_SIZE, (1, length)) for length in LENGTHS]
    np.savez(
        tmp_path / "check.npz",
        input_ids=np.concatenate([row[0] for row in rows]),
        lengths=np.array(LENGTHS, np.int32),
        embeddings=np.concatenate([expected(1, row) for row in rows]),
    )
    return tmp_path


@pytest.fixture(autouse=True)
def no_engine_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE", raising=False)


def use_modulus(path: Path) -> None:
    """Take the ids by Mod, as OpenVINO computes wrong above 2**24."""
    model = onnx.load(path)
    model.graph.node[0].op_type = "Mod"
    modulus = next(one for one in model.graph.initializer if one.name == "mask")
    modulus.CopyFrom(onnx.numpy_helper.from_array(np.array(1 << 29, np.int64), "mask"))
    onnx.save(model, path)


def test_the_front_end_knows_every_engine() -> None:
    assert ("auto", *map(str, ENGINES + TORCH_ENGINES)) == ENGINE_NAMES


@pytest.mark.parametrize("name", ["", "onnxruntime", "openvino:int8", "auto"])
def test_an_unknown_engine_is_refused(name: str) -> None:
    with pytest.raises(UnknownEngine, match="onnxruntime:fp32"):
        parse_engine(name)


def test_the_choice_is_recorded_and_used_again(directory: Path) -> None:
    chosen = engine_selection.engine_for(directory, 2)
    recorded = json.loads((directory / "engine.json").read_text())
    assert (recorded["engine"], recorded["streams"]) == (chosen.engine, chosen.streams)
    tried = [(one["engine"], one["streams"]) for one in recorded["measured"]]
    assert tried == [*((str(name), 1) for name in ENGINES), (chosen.engine, 2)]
    # Another record of this machine is believed, one of another machine or thread count is not.
    recorded["engine"] = "openvino:bf16"
    (directory / "engine.json").write_text(json.dumps(recorded))
    assert engine_selection.engine_for(directory, 2).engine == "openvino:bf16"
    recorded["machine"] = "another"
    (directory / "engine.json").write_text(json.dumps(recorded))
    assert engine_selection.engine_for(directory, 2) == engine_selection.read(directory)
    assert json.loads((directory / "engine.json").read_text())["machine"] == machine()


def test_cpus_of_one_name_and_other_abilities_are_two_machines(tmp_path: Path) -> None:
    said = "processor\t: {}\nmodel name\t: AMD EPYC\nflags\t\t: {}\n\n"
    machines = []
    for number, flags in enumerate(("fpu avx2 avx512_bf16", "fpu avx2", "avx2 fpu")):
        cpuinfo = tmp_path / str(number)
        cpuinfo.write_text(said.format(0, flags) + said.format(1, flags))
        machines.append(machine(cpuinfo))
    assert machines[0] != machines[1] == machines[2]
    assert all(one.startswith("AMD EPYC (") for one in machines)


def test_a_recorded_engine_that_does_not_open_is_measured_anew_once(directory: Path) -> None:
    recorded = dataclasses.asdict(engine_selection.engine_for(directory, 2))
    recorded["engine"] = "openvino:bf16"
    (directory / "engine.json").write_text(json.dumps(recorded))
    tried: list[str] = []

    def open_(chosen: engine_selection.Selection) -> Engine:
        tried.append(chosen.engine)
        if chosen.engine == "openvino:bf16":
            raise RuntimeError("no such instruction")
        return Engine(directory / "model.onnx", 2, chosen.name, chosen.streams)

    def choose(anew: bool) -> engine_selection.Selection:
        return engine_selection.engine_for(directory, 2, anew=anew)

    chosen, engine = opened(choose, open_, lambda _: True)
    assert tried == ["openvino:bf16", chosen.engine]
    assert engine.run(np.array([1, 2]), np.array([2], np.int32)).shape == (1, 8)
    assert engine_selection.read(directory) == chosen
    with pytest.raises(RuntimeError):
        opened(choose, refuse, lambda _: True)


def test_a_recorded_engine_that_computes_wrong_is_measured_anew(directory: Path) -> None:
    use_modulus(directory / "model.onnx")
    recorded = dataclasses.asdict(engine_selection.engine_for(directory, 2)) | {"engine": "openvino:fp32"}
    (directory / "engine.json").write_text(json.dumps(recorded))
    assert engine_selection.engine_for(directory, 2).engine == "openvino:fp32"
    tower = TextTower(directory, 2, "input_ids")
    assert tower.name.startswith("onnxruntime:fp32")
    assert engine_selection.engine_for(directory, 2).name == DEFAULT


def refuse(chosen: engine_selection.Selection) -> Engine:
    raise RuntimeError(f"{chosen.engine} does not open")


def test_a_damaged_record_is_measured_again(directory: Path) -> None:
    (directory / "engine.json").write_text("{")
    chosen = engine_selection.engine_for(directory, 2)
    assert engine_selection.read(directory) == chosen


def test_the_operator_fixes_the_engine(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "openvino:fp32")
    assert engine_selection.engine_for(directory, 2).engine == "openvino:fp32"
    # What was fixed is not taken for what was found to be the fastest.
    monkeypatch.delenv("ENGINE")
    assert len(engine_selection.engine_for(directory, 2).measured) > len(ENGINES)
    monkeypatch.setenv("ENGINE", "onnxruntime:fp32")
    assert engine_selection.engine_for(directory, 2).engine == "onnxruntime:fp32"


def test_an_engine_that_stumbles_over_flags_is_refused(directory: Path) -> None:
    use_modulus(directory / "model.onnx")
    assert engine_selection.engine_for(directory, 2).name == DEFAULT
    record = engine_selection.read(directory)
    assert record is not None
    refused = {one.engine: one.refused for one in record.measured}
    assert refused["onnxruntime:fp32"] is None
    assert "cosine" in str(refused["openvino:fp32"])


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("name", [str(name) for name in ENGINES[:3]])
def test_every_engine_gives_the_models_vectors_with_and_without_flags(
    directory: Path, name: str, streams: int
) -> None:
    engine = Engine(directory / "model.onnx", 2, parse_engine(name), streams)
    sample = Sample.of(directory)
    assert sample is not None
    lengths = np.array(LENGTHS, np.int32)
    ids = np.concatenate(sample.rows)
    assert cosines(engine.run(ids, lengths), sample.vectors).min() >= 0.9999
    flagged = ids | (1 << 30)
    assert cosines(engine.run(flagged, lengths), sample.vectors).min() >= 0.9999
