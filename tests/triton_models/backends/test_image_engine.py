"""The engine of image towers: any number of images, and the choice of what computes them."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_image import expected, images, write_model
from triton_models.backends.onnxruntime import image_engine
from triton_models.backends.onnxruntime.engine_selection import read
from triton_models.backends.onnxruntime.image_engine import ImageEngine
from triton_models.backends.onnxruntime.image_engine_selection import image_engine_for, select_for_images
from triton_models.backends.onnxruntime.sessions import DEFAULT, ENGINES, EngineName
from triton_models.backends.onnxruntime.towers import ImageTower
from triton_models.contract.checks import ImageCheck


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_model(tmp_path / "model.onnx", seed=1)
    pixels = images(6)
    np.savez(tmp_path / "check.npz", images=pixels, embeddings=expected(1, pixels))
    return tmp_path


@pytest.mark.parametrize("name", [name for name in ENGINES if name.precision == "fp32"], ids=str)
def test_batches_beyond_the_bound_are_computed_in_parts(
    directory: Path, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_engine, "PIXELS", 4 * 24)
    engine = ImageEngine(directory / "model.onnx", 2, name)
    for count in (1, 4, 5, 11):
        pixels = images(count, seed=count)
        np.testing.assert_allclose(engine.run(pixels), expected(1, pixels), rtol=1e-4, atol=1e-3)


def test_the_choice_is_recorded_and_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE", raising=False)
    name = image_engine_for(directory, 2)
    recorded = read(directory)
    assert recorded is not None
    assert (recorded.name, recorded.threads) == (name, 2)
    assert image_engine_for(directory, 2) == name


def test_an_engine_that_gives_other_vectors_does_not_serve(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINE", raising=False)
    pixels = images(6)
    wrong = ImageCheck(pixels, expected(2, pixels))
    selection = select_for_images(directory / "model.onnx", wrong, 2)
    assert selection.name == DEFAULT
    assert all(one.refused for one in selection.measured)


def test_what_the_operator_fixes_is_not_measured(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", "openvino:fp32")
    assert str(image_engine_for(directory, 2)) == "openvino:fp32"
    assert read(directory) is None


def test_an_engine_fixed_for_the_cpu_does_not_take_a_gpu_s_tower(directory: Path) -> None:
    name = EngineName("openvino", "fp32")
    session = image_engine.open_images(directory / "model.onnx", 2, name, "cuda:0")
    assert isinstance(session, image_engine.OnnxRuntimeImages)


def test_without_a_check_there_is_no_choice(directory: Path) -> None:
    (directory / "check.npz").unlink()
    assert image_engine_for(directory, 2) == DEFAULT


def test_a_recorded_engine_that_computes_wrong_is_measured_anew(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ENGINE", raising=False)
    image_engine_for(directory, 2)
    recorded = (directory / "engine.json").read_text()
    ImageTower(directory, 2, "images", [24, 24, 3])
    assert (directory / "engine.json").read_text() == recorded
    pixels = images(6)
    np.savez(directory / "check.npz", images=pixels, embeddings=expected(2, pixels))
    # By now no engine computes what the check wants.
    assert ImageTower(directory, 2, "images", [24, 24, 3]).name == str(DEFAULT)
    assert (directory / "engine.json").read_text() != recorded
