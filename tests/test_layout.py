"""The shape of the project: which way imports go, sizes, and what the documents must name."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "converters", "triton_models", "inference_store")
MAY_IMPORT = {
    "app": {"gateway", "triton_models"},
    "gateway": {"gateway", "triton_models"},
    "converters": {"converters", "triton_models"},
    "triton_models": {"triton_models"},
    "inference_store": {"inference_store"},
}
ONLY_IN_CONVERTERS = {"torch", "transformers", "sentence_transformers", "open_clip"}
SOURCES = sorted(
    path
    for path in (*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py")))
)
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
)
TESTED = sorted(path for name in LISTED.stdout.split() if (path := ROOT / name).exists())


def imports_of(path: Path) -> set[str]:
    """Top-level names of all modules imported anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT.get(part, set())
    imported = imports_of(path)
    assert imported & set(PACKAGES) <= allowed
    if part != "converters":
        assert not imported & ONLY_IN_CONVERTERS


def test_benchmarks_import_downwards() -> None:
    """Studies may use comparisons, and those the load test; never the other way round."""
    layers = ("studies", "compare", "loadtest")
    for path in (ROOT / "benchmarks").rglob("*.py"):
        layer = path.relative_to(ROOT).parts[1]
        for above in layers[: layers.index(layer)] if layer in layers else ():
            imported = re.search(rf"(from|import) benchmarks(\.| import ){above}\b", path.read_text())
            assert imported is None, f"{relative(path)} imports {above}"


def test_the_front_end_process_holds_no_torch() -> None:
    program = "import app, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not ONLY_IN_CONVERTERS & set(loaded.stdout.split())


@pytest.mark.parametrize("path", TESTED, ids=relative)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    if path.relative_to(ROOT).parts[0] == "tests":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            assert node.end_lineno - node.lineno < 50, node.name


@pytest.mark.parametrize("path", TESTED, ids=relative)
def test_no_mock_library(path: Path) -> None:
    assert not {"mock", "pytest_mock"} & imports_of(path)
    assert "unittest" + ".mock" not in path.read_text()


def test_readme_lists_every_setting_and_default() -> None:
    from gateway.settings import Settings

    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    for name, field in Settings.model_fields.items():
        assert name.upper() in rows, f"README.md: no row for {name.upper()}"
        default = field.default
        if default not in (None, ()) and not isinstance(default, bool):
            shown = ",".join(default) if isinstance(default, tuple) else f"{default}"
            assert shown in rows[name.upper()], f"README.md: {name.upper()} should show {shown}"


def test_the_store_needs_only_what_it_declares() -> None:
    """It is installed without the rest of this project."""
    declared = (ROOT / "inference_store" / "pyproject.toml").read_text()
    packages = {"grpc": "grpcio", "google": "protobuf", "yaml": "PyYAML"}
    for path in (ROOT / "inference_store").glob("*.py"):
        for name in imports_of(path) - set(sys.stdlib_module_names) - {"inference_store"}:
            # Only the command that writes protocol.binpb reads tritonclient.
            if (path.name, name) != ("protocol.py", "tritonclient"):
                assert f'"{packages.get(name, name)}>=' in declared, name


def test_readme_lists_every_route() -> None:
    from gateway.application import create_app
    from gateway.settings import Settings

    readme = (ROOT / "README.md").read_text()
    for path in create_app(Settings(load_models=())).openapi()["paths"]:
        assert f"`{path}`" in readme or f" {path}`" in readme, f"README.md does not mention {path}"


def test_readme_layout_names_every_file() -> None:
    for path in TESTED:
        part = path.relative_to(ROOT).parts[0]
        if path.name != "__init__.py" and part not in ("tests", "benchmarks"):
            # The store is useful alone and has a README of its own.
            readme = ROOT / (part if part == "inference_store" else "") / "README.md"
            assert re.search(rf"\b{re.escape(path.name)}\b", readme.read_text()), f"{readme} lacks {path}"
