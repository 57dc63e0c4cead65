"""What of the libraries is served and what is refused, as docs/reference/models.md lists it: slow."""

import os
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from converters.errors import ConversionError
from tests.converters.conftest import Convert
from tests.converters.graph.test_architectures import assert_same_vectors
from tests.support import tiny_architectures
from tests.support.tables import check_row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", tiny_architectures.NAMES)
def test_an_architecture_of_transformers(
    name: str, sources: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The comparison below is the test; the conversion's own gets its minimum.
    monkeypatch.setenv("CHECK_SECONDS", "0.001")
    path = tiny_architectures.save(sources / "model", name)
    try:
        converted = convert("model")
    except ConversionError as error:
        check_row("Architectures of transformers", f"`{name}`", f"refused: {told(error, path)}")
        return
    assert_same_vectors(converted, SentenceTransformer(str(path), device="cpu"))
    check_row("Architectures of transformers", f"`{name}`", f"served, {converted.manifest.attention}")


def told(error: ConversionError, path: Path) -> str:
    """Return the reason of a refusal: one line that names nothing of this machine."""
    reason = str(error)
    assert reason.isprintable(), reason
    assert "server's log" not in reason
    assert os.fspath(path.parents[1]) not in reason
    return reason
