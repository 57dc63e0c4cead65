"""What the fuzzers found, each as small as it gets; more are `@example` of the property that found them."""

import base64
import dataclasses
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from converters.errors import SourceNotFound
from converters.sources.find import find
from gateway.errors import InvalidModel
from gateway.images.decoder import silence_libtiff
from gateway.images.headers import ImageError
from gateway.images.preprocessing import open_image, preprocess
from gateway.images.sources import decode
from gateway.inference.vectors import unit_length
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog
from inference_store.errors import Invalid
from inference_store.http_infer import parse_request
from tests.conftest import ROOT
from tests.fuzz.mutations import deep
from tests.fuzz.test_images import SPECS
from tests.fuzz.test_repository import TEXT, repository
from tests.fuzz.test_sources import Silent, read
from tests.support.pictures import encoded, photo
from triton_models.contract.config import Tuning, model_config, to_text
from triton_models.contract.manifest import Source
from triton_models.repository.model_state import ModelState
from triton_models.repository.repository import DamagedModel, Repository


def test_a_damaged_tiff_writes_nothing_into_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """A line for each damaged row: 60,000 lines for an image of a few kilobytes."""
    silence_libtiff()
    content = bytearray(encoded(photo(64, 500, mode="1"), "TIFF", compression="group4"))
    content[200:1500] = b"\x55" * 1300
    with suppress(ImageError):
        preprocess(open_image(bytes(content), 10**6), SPECS[0])
    assert capfd.readouterr().err == ""


def test_base64_in_lines_may_be_as_large_as_base64_in_one() -> None:
    data = bytes(range(256))
    lines = "\n".join(base64.b64encode(data[place : place + 3]).decode() for place in range(0, 256, 3))
    assert decode(lines, len(data)) == data


@pytest.mark.parametrize("value", [3e38, 1e25, 1e-25, 1e-38])
def test_unit_length_of_values_whose_squares_no_float32_holds(value: float) -> None:
    made = unit_length(np.full((1, 4), value, np.float32))
    assert np.allclose(made, 0.5)


def test_a_configuration_without_instances_is_read_and_tuned() -> None:
    config = model_config("m", TEXT)
    del config.instance_group[:]
    assert Tuning.of(config).instances == 1
    assert Tuning.of(Tuning(instances=3).apply(config)).instances == 3


def version_dir(made: Repository) -> Path:
    return made.root / "owner_name" / str(TEXT.version)


@pytest.mark.parametrize("name", ["tokenizer.json", "check.npz"])
def test_a_model_with_a_damaged_file_is_told_to_be_loaded_again(name: str) -> None:
    with repository() as made:
        (version_dir(made) / name).write_bytes(b"{}")
        with pytest.raises(InvalidModel, match=r"damaged; delete and load the model again$"):
            Catalog(made)._read_text(ModelId("owner/name"))


def test_a_directory_in_the_place_of_a_file_is_damage() -> None:
    with repository() as made:
        for path in (made.root / "owner_name" / "config.pbtxt", version_dir(made) / "check.npz"):
            path.unlink()
            path.mkdir()
        with pytest.raises(DamagedModel):
            made.config("owner_name")
        assert made.triton_names() == []


@pytest.mark.parametrize("content", ["[1]", "5", "null", deep(100_000), '"a"'])
def test_an_engine_file_of_another_shape_is_none(content: str) -> None:
    with repository() as made:
        (version_dir(made) / "engine.json").write_text(content)
        assert made.engine("owner_name") is None


@pytest.mark.parametrize(
    "content", ['{"error": [1]}', '{"wanted": "no"}', '{"activity": "sleeping"}', deep(100_000), "[]"]
)
def test_a_state_of_another_shape_is_unknown(content: str) -> None:
    """As an error that is no text it failed /repository_models for all models."""
    with repository() as made:
        (made.state_dir / "models" / "owner_name.json").write_text(content)
        assert made.state("owner_name") == ModelState()


def test_a_manifest_of_no_whole_number_of_dimensions_is_damaged() -> None:
    with repository() as made:
        broken = json.dumps({**dataclasses.asdict(TEXT), "dimensions": -1})
        (version_dir(made) / "model.json").write_text(broken)
        with pytest.raises(DamagedModel, match="dimensions: Input should be greater than 0"):
            made.manifest("owner_name")
        assert to_text(made.config("owner_name"))


def test_a_clip_model_that_is_none_is_refused_without_torch(tmp_path: Path) -> None:
    """It took 7 s of CPU, and minutes on a busy machine."""
    program = (
        "import sys; from converters.__main__ import main\n"
        "assert main(['clip', 'nobody', 'none', '--output', '.', '--progress', 'json']) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    tried = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    assert "open_clip has no architecture 'nobody'" in tried.stdout


@pytest.mark.parametrize("name", ["a--b", "owner/a.git"])
def test_a_name_that_only_a_directory_can_have_is_nowhere(name: str, tmp_path: Path) -> None:
    """The Hub's library refused it with an error of its own, which was answered as ours."""
    with pytest.raises(SourceNotFound, match="no name of the Hugging Face Hub"):
        find(name, None, [tmp_path], tmp_path, Silent())


def test_half_a_character_in_a_model_s_files_can_be_told() -> None:
    read("config_sentence_transformers.json", b'{"model_type": "\\ud800"}')


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"])
def test_a_source_that_cannot_be_looked_at_has_not_changed(path: str) -> None:
    assert not Source("directory", path, None, {}).has_changed()


def test_a_number_that_no_float_holds_is_refused() -> None:
    tensor = {"name": "X", "datatype": "FP32", "shape": [1], "data": [10**400]}
    with pytest.raises(Invalid, match="not all elements are FP32"):
        parse_request("m", "", json.dumps({"inputs": [tensor]}).encode(), None)
