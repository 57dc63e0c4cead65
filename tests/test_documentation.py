"""The documents: links, limits, settings, routes, folders, and each block of code, run against a server."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from gateway.settings import RENAMED, Settings
from tests.conftest import ROOT, Server
from tests.support.vectors import cosines
from tests.test_clients import ADDRESS, SHOW, TEXTS, infer

LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
)
FILES = [path for name in LISTED.stdout.splitlines() if (path := ROOT / name).exists()]
DOCUMENTS = [path for path in FILES if path.suffix == ".md"]
README = ROOT / "README.md"
GUIDES = [path for path in DOCUMENTS if path.parent == ROOT / "docs" / "guides"]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

LANGUAGES = {"bash", "console", "ini", "json", "mermaid", "python", "text", "yaml"}

NOT_RUN = {
    "scripts/serve": "starts a server of its own, on a fixed port",
    "run_triton_server_dev.sh": "starts a Triton of its own, on fixed ports",
    "docker ": "there is no Docker engine here",
    "intfloat/e5-small-v2": "its weights come from the Hub",
    "laion2b_s34b_b79k": "its weights come from the Hub",
    "cross-encoder/ms-marco-MiniLM-L6-v2": "its weights come from the Hub",
    "examples.search_pictures": "its weights come from the Hub",
    "prometheus --config": "tests/deploy/test_prometheus.py runs a Prometheus with these files",
    "model_repository ci/models": "tests/inference_store/test_replay.py does the same",
}
"""Why a block of `console` is not run, by a part of its text."""


class Block(NamedTuple):
    page: str
    language: str
    text: str


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page, and those that stand in it as HTML."""
    seen: Counter[str] = Counter()
    found = set(re.findall(r'<a id="([^"]+)">', path.read_text()))
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", prose(path), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def blocks(paths: list[Path]) -> list[Block]:
    return [Block(relative(path), *block) for path in paths for block in FENCE.findall(path.read_text())]


# tests/test_clients.py runs the blocks of that page.
BLOCKS = blocks([README, *(path for path in GUIDES if path.name != "clients.md")])
RUN = [
    pytest.param(block, id=f"{block.page} {number}")
    for number, block in enumerate(BLOCKS, 1)
    if block.language in ("bash", "python")
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_every_relative_link_and_anchor_resolves(path: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(path))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{relative(path)}: {target} is not there"
        assert linked.is_relative_to(ROOT), f"{relative(path)}: {target} leads out of the repository"
        if anchor:
            assert anchor in anchors(linked), f"{relative(path)}: {target} has no such heading"


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=relative)
def test_every_file_that_is_named_exists(path: Path) -> None:
    """The changelog may name files that are gone."""
    rooms = "benchmarks|converters|deploy|docs|examples|gateway|inference_store|scripts|tests|triton_models"
    for name in re.findall(rf"`((?:{rooms})/[\w/-][\w/.-]*)`", prose(path)):
        assert (ROOT / name).exists(), f"{relative(path)}: {name} is not there"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for path in DOCUMENTS:
        if path.is_relative_to(ROOT / "docs") and path.name != "README.md":
            assert f"]({path.relative_to(ROOT / 'docs').as_posix()})" in index, relative(path)


def test_the_readme_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert len(README.read_text().split()) <= 1200
    assert [line for line in lines if len(line) > 120] == []


def test_the_readme_shows_the_figures_and_a_client_first() -> None:
    first = "\n".join(README.read_text().splitlines()[:60]) + "\n"
    assert "](docs/benchmarks/results.png)" in first
    assert any(language == "python" and "from openai" in text for language, text in FENCE.findall(first))


def test_the_configuration_page_has_every_setting_and_default() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", page, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        assert name.upper() in rows, f"no row for {name.upper()}"
        default = field.default
        if isinstance(default, bool):
            assert f"`{default}".lower() in rows[name.upper()], name
        elif default not in (None, ()):
            shown = ",".join(default) if isinstance(default, tuple) else f"{default}"
            assert f"`{shown}`" in rows[name.upper()], f"{name.upper()} should show {shown}"
    for old, new in RENAMED.items():
        assert rows.get(old) == f"`{new}`", f"no row for the old name {old}"
    assert {name.lower() for name in rows} - set(Settings.model_fields) == {old.lower() for old in RENAMED}


def test_the_api_page_has_every_route() -> None:
    from gateway.application import create_app

    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    for path, methods in create_app(Settings(load_models=())).openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in page, f"no {method.upper()} {path}"


def test_the_overview_names_every_folder() -> None:
    page = (ROOT / "docs" / "concepts" / "overview.md").read_text()
    tree = page.partition("## The folders")[2].partition("```text\n")[2].partition("```")[0]
    named, top = set(), ""
    for indent, name in re.findall(r"^( *)(\S+)/ ", tree, re.MULTILINE):
        top = top if indent else name
        named.add(f"{top}/{name}" if indent else name)
    folders = {relative(path.parent) for path in FILES if path.suffix == ".py"} - {"."}
    assert {name for name in folders if name.split("/")[0] not in ("tests", "benchmarks")} <= named
    assert [name for name in sorted(named) if not (ROOT / name).is_dir()] == []


def test_the_store_s_readme_names_each_of_its_files() -> None:
    """It is useful alone, so it has a README of its own."""
    page = (ROOT / "inference_store" / "README.md").read_text()
    for path in FILES:
        if path.parent == ROOT / "inference_store" and path.suffix == ".py" and path.name != "__init__.py":
            assert re.search(rf"\b{re.escape(path.name)}\b", page), path.name


def test_every_block_is_run_or_has_a_reason() -> None:
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.page}: a block of {block.language or 'no language'}"
        if block.language == "console":
            assert any(part in block.text for part in NOT_RUN), f"{block.page}: no reason for {block.text}"
        if block.language == "yaml":
            assert yaml.safe_load(block.text), block.page


def test_protocols_that_are_named_for_uvicorn_exist() -> None:
    pages = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
    named = {name for path in pages for name in re.findall(r"--http (\w[\w.]*:\w+)", path.read_text())}
    assert named
    for name in named:
        module, _, attribute = name.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("block", RUN)
def test_a_block_runs_as_it_stands(server: Server, tmp_path: Path, block: Block) -> None:
    assert ADDRESS in block.text
    program = block.text.replace(ADDRESS, server.url)
    if block.language == "bash":
        # The same request; an error of the server fails the block too.
        program = program.replace("curl -s ", "curl -sS --fail-with-body ")
        command = ["bash", "-euo", "pipefail", "-c", program]
    else:
        command = [sys.executable, "-c", program + SHOW]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if block.language == "bash":
        assert done.stdout or any(path.stat().st_size for path in tmp_path.iterdir())
        return
    vectors = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)
    assert vectors.ndim == 2
    assert vectors.size > 0
    if block.page == "README.md":
        assert cosines(vectors, infer(server, text=TEXTS)).min() >= 0.99999
