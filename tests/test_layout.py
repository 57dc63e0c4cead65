"""The shape of the project: which way imports go, and sizes."""

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
ORDER: dict[str, tuple[set[str], ...]] = {
    "gateway": (
        {"application"},
        {"lifespan"},
        {"server"},
        {"middleware"},
        {"api"},
        {"inference"},
        {"models"},
        {"text", "images"},
        {"telemetry"},
        {"health"},
        {"settings"},
        {"model_id", "memory", "concurrency", "allowed_hosts", "credentials"},
        {"errors"},
    ),
    "converters": (
        {"__main__"},
        {"sentence_transformer", "clip"},
        {"job", "verification", "sources"},
        {"graph", "memory_reservation", "content_hash", "torchvision_shim", "loading_errors", "causes"},
        {"progress"},
        {"errors"},
    ),
    "triton_models": ({"server"}, {"client", "repository", "backends"}, {"contract"}),
    "benchmarks": ({"studies", "gpu"}, {"compare"}, {"loadtest"}),
}
"""Rooms of each package from above to below. A room imports itself and rooms below it, none beside it."""

NO_BEGINNING = re.compile(r"(What|Who|Of|Whether|How many)\b")
"""Words with which no docstring begins: its first line says what a thing is or does."""

ONLY_IN_CONVERTERS = {"torch", "transformers", "sentence_transformers", "open_clip"}
TORCH_ENGINE = {
    f"triton_models/backends/onnxruntime/{name}.py"
    for name in ("packed_program", "torch_session", "varlen_attention")
}
"""Modules of the torch engine. `sessions.py` asks torch for a GPU, in a process of its own."""
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

DOCUMENTED = [path for path in TESTED if path.relative_to(ROOT).parts[0] != "tests"]


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
    if relative(path) in TORCH_ENGINE or path.name == "sessions.py":
        imported -= {"torch"}
    if part != "converters":
        assert not imported & ONLY_IN_CONVERTERS


def imported_modules(path: Path) -> set[str]:
    """Dotted names of what the file imports, of modules and of names in them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", ORDER)
def test_rooms_import_downwards(package: str) -> None:
    rank = {room: depth for depth, rooms in enumerate(ORDER[package]) for room in rooms}
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        assert room in rank, f"{relative(path)}: say in ORDER where {room} is"
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == package and parts[1] in rank and parts[1] != room and rank[parts[1]] <= rank[room]:
                wrong.append(f"{relative(path)} imports {name}")
    assert wrong == []


def test_no_modules_import_each_other() -> None:
    modules = {
        relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in DOCUMENTED
    }
    graph = {
        name: {one if one in modules else one.rpartition(".")[0] for one in imported_modules(path)} - {name}
        for name, path in modules.items()
    }
    left = {name: names & graph.keys() for name, names in graph.items()}
    # Whatever imports nothing that is left is in no circle.
    while done := {name for name, names in left.items() if not names & left.keys()}:
        left = {name: names for name, names in left.items() if name not in done}
    assert left == {}


def test_the_gateway_has_few_files_outside_its_rooms() -> None:
    assert len(list((ROOT / "gateway").glob("*.py"))) <= 10


@pytest.mark.parametrize("path", DOCUMENTED, ids=relative)
def test_docstrings_begin_with_what_a_thing_is_or_does(path: Path) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            assert not NO_BEGINNING.match(text), (
                f"{getattr(node, 'name', 'the module')}: {text.splitlines()[0]}"
            )


def test_the_gateway_process_holds_no_torch() -> None:
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


def test_the_store_needs_only_what_it_declares() -> None:
    """It is installed without the rest of this project."""
    declared = (ROOT / "inference_store" / "pyproject.toml").read_text()
    packages = {"grpc": "grpcio", "google": "protobuf", "yaml": "PyYAML"}
    for path in (ROOT / "inference_store").glob("*.py"):
        for name in imports_of(path) - set(sys.stdlib_module_names) - {"inference_store"}:
            # Only the command that writes protocol.binpb reads tritonclient.
            if (path.name, name) != ("protocol.py", "tritonclient"):
                assert f'"{packages.get(name, name)}>=' in declared, name
