import json
from pathlib import Path

import pytest

from tests.support.tiny_repository import manifest
from triton_models.contract.manifest import (
    ImagePreprocessing,
    Manifest,
    ManifestError,
    Source,
    fingerprint,
    pair_digest,
)


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


def test_a_tower_is_written_and_read() -> None:
    written = manifest(
        "ViT-B-32",
        b"model",
        pretrained="openai",
        tower="image",
        pair=pair_digest("a", "b"),
        image=ImagePreprocessing(224, 336, "longest", "bilinear", 127),
    )
    assert Manifest.from_json(written.to_json()) == written


def test_what_was_written_before_vectors_of_tokens_is_read() -> None:
    data = json.loads(manifest("a", b"", token_dimensions=384).to_json())
    del data["token_dimensions"]
    assert Manifest.from_json(json.dumps(data)).token_dimensions is None


def test_what_was_written_before_clip_is_read() -> None:
    data = json.loads(manifest("a", b"").to_json())
    for name in ("pretrained", "tower", "pair", "text_cleaning", "fixed_length", "pad_id", "image"):
        del data[name]
    assert Manifest.from_json(json.dumps(data)) == manifest("a", b"")


def test_towers_of_different_conversions_are_no_pair() -> None:
    assert pair_digest("a", "b") == pair_digest("a", "b")
    assert len({pair_digest(*pair) for pair in (("a", "b"), ("b", "a"), ("a", "c"), ("ab", ""))}) == 4


def test_a_checkpoint_file_is_a_source_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"1")
    source = Source("file", str(path), None, fingerprint(path))
    (tmp_path / "other.pt").write_bytes(b"1")
    assert not source.has_changed()
    path.write_bytes(b"22")
    assert source.has_changed()
    path.unlink()
    assert not source.has_changed()


def test_versions_are_of_the_content_and_exact_in_every_reader() -> None:
    one, other = manifest("a", b"1").version, manifest("a", b"2").version
    assert one != other
    assert manifest("b", b"1").version == one
    assert 0 < one < 2**53


def test_a_version_is_never_zero() -> None:
    assert manifest("a", b"", sha256="0" * 64).version == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format": 2}', '{"format": 2, "new": 2}'])
def test_damage_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


def test_another_format_is_named() -> None:
    text = json.dumps({**json.loads(manifest("a", b"").to_json()), "format": 1})
    with pytest.raises(ManifestError, match="format 1"):
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
