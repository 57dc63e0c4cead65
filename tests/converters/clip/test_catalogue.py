"""Which configurations of open_clip are served, as docs/reference/models.md lists them: slow."""

from pathlib import Path

import pytest

from converters.clip import image_tower, reference
from converters.clip.check_texts import CLIP_EDGE_TEXTS, clip_texts
from converters.errors import ConversionError
from converters.verification import check
from tests.converters.test_catalogue import told
from tests.support import pretrained_clip
from tests.support.clip_conversion import ConvertedClip, OpenClip, convert_clip
from tests.support.tables import check_row
from triton_models.contract.accuracy import LEAST_COSINE, cosines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("name", pretrained_clip.NAMES)
def test_a_pretrained_configuration(
    name: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The comparison below is the test, so the conversion's own is short, and engines are not compared.
    monkeypatch.setenv("CHECK_SECONDS", "0.001")
    monkeypatch.setenv("ENGINE", "onnxruntime:fp32")
    monkeypatch.setattr(check, "LEAST_BATCHES", 2)
    monkeypatch.setattr(image_tower, "LEAST_BATCHES", 2)
    monkeypatch.setattr(image_tower, "ALWAYS", 4)
    monkeypatch.setattr(reference, "_REFERENCE_BATCH", 4)
    directory = pretrained_clip.save(sources, name)
    try:
        converted = convert_clip(tmp_path, f"hf-hub:{pretrained_clip.REPOSITORY}")
    except ConversionError as error:
        outcome = f"refused: {told(error, sources / 'clip')}"
    else:
        assert_same_vectors(converted, OpenClip(directory))
        outcome = f"served, {converted.text.attention}"
    check_row("Pretrained configurations of open_clip", f"`{name}`", outcome)


def assert_same_vectors(converted: ConvertedClip, library: OpenClip) -> None:
    texts, images = [*CLIP_EDGE_TEXTS, *clip_texts()[60:160:5]], converted.images(4)
    for expected, found in (
        (library.texts(texts), converted.embed(texts)),
        (library.images(images), converted.image_engine.run(images)),
    ):
        # Random weights can give all inputs nearly one vector, beside which an error must be small too.
        apart = 1 - cosines(expected[:1], expected[1:2])[0]
        assert 1 - cosines(found, expected).min() <= min(1 - LEAST_COSINE, apart / 10)
