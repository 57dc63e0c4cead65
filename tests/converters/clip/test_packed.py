"""The torch engine's files of a CLIP model: both towers give open_clip's vectors."""

from pathlib import Path

import numpy as np
import pytest

from converters.clip import pipeline
from converters.job import Request
from tests.converters.conftest import Steps
from tests.support import tiny_clip
from tests.support.clip_conversion import ConvertedClip, OpenClip
from triton_models.backends.onnxruntime.packed_files import Unreadable, read
from triton_models.backends.onnxruntime.torch_session import TorchImages, TorchTexts
from triton_models.contract.accuracy import BOUNDS, cosines
from triton_models.repository.repository import Repository

TEXTS = ["a diver", "a dog in the snow, seen from far away", "x"]


def converted(root: Path, **parts: object) -> ConvertedClip:
    tiny_clip.write_clip(root / "sources" / "tiny", tiny_clip.config(**parts))
    request = Request(
        "hf-hub:tiny", root / "repository", None, [root / "sources"], False, 2, False, precision="fp16"
    )
    return ConvertedClip(Repository(request.output), pipeline.run(request, "", Steps()))


def test_both_towers_give_open_clips_vectors(tmp_path: Path) -> None:
    model = converted(tmp_path)
    library = OpenClip(tmp_path / "sources" / "tiny")
    rows = [np.array(model.ids(text)) for text in TEXTS]
    ids, lengths = np.concatenate(rows), np.array([row.size for row in rows], np.int32)
    images = model.images(3)
    for precision in ("fp32", "fp16"):
        vectors = TorchTexts(model.text_directory, "cpu", precision).run(ids, lengths)
        pictures = TorchImages(model.image_directory, "cpu", precision).run(images)
        for found, expected in ((vectors, library.texts(TEXTS)), (pictures, library.images(images))):
            least = 1 - 1e-6 if precision == "fp32" else BOUNDS["fp16"].reference
            assert cosines(found, expected).min() >= least


def test_a_text_tower_that_attends_to_its_padding_says_so(tmp_path: Path) -> None:
    model = converted(tmp_path, text_cfg={**tiny_clip.TEXT, "no_causal_mask": True}, custom_text=True)
    with pytest.raises(Unreadable, match="not packed"):
        read(model.text_directory)
    read(model.image_directory)
