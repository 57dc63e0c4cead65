import json
from pathlib import Path

import pytest

from tests.triton_models.helpers import manifest
from triton_models.manifest import Manifest, ManifestError, Source, fingerprint


def test_what_is_written_is_read() -> None:
    written = manifest(
        "owner/name",
        b"model",
        source=Source("hub", "/cache/x", "abc", {"config.json": [3, 4]}),
        prompts={"query": "Frage: ä\u2028 "},
        default_prompt_name="query",
        include_prompt=False,
        special_ids=[101, 102],
        check={"min_cosine": 0.99999},
    )
    assert Manifest.from_json(written.to_json()) == written


def test_versions_are_of_the_content_and_exact_in_every_reader() -> None:
    one, other = manifest("a", b"1").version, manifest("a", b"2").version
    assert one != other
    assert manifest("b", b"1").version == one
    assert 0 < one < 2**53


def test_a_version_is_never_zero() -> None:
    assert manifest("a", b"", sha256="0" * 64).version == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 1}', '{"format": 1, "new": 2}'])
def test_damage_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


def test_another_format_is_named() -> None:
    text = json.dumps({**json.loads(manifest("a", b"").to_json()), "format": 2})
    with pytest.raises(ManifestError, match="format 2"):
        Manifest.from_json(text)


def test_a_source_is_changed_by_changed_files_and_not_by_being_gone(tmp_path: Path) -> None:
    root = tmp_path / "source"
    root.mkdir()
    (root / "config.json").write_text("{}")
    source = Source("directory", str(root), None, fingerprint(root))
    assert not source.has_changed()
    (root / "more.json").write_text("{}")
    assert source.has_changed()
    (root / "more.json").unlink()
    (root / "config.json").unlink()
    root.rmdir()
    assert not source.has_changed()
