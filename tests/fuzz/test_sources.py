"""Directories that call themselves models, before any library reads them: inspected or refused."""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from converters.errors import InvalidModel, SourceNotFound
from converters.progress import JsonProgress
from converters.sources import hub
from converters.sources.find import find
from converters.sources.inspection import inspect
from tests.fuzz.mutations import broken_json, deep
from triton_models.contract.manifest import fingerprint
from triton_models.contract.names import InvalidModelName

FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ],
    "config.json": {"model_type": "bert", "hidden_size": 32, "torch_dtype": "float16"},
    "config_sentence_transformers.json": {"prompts": {"query": "a"}, "model_type": "SentenceTransformer"},
    "sentence_bert_config.json": {"max_seq_length": 64, "transformer_task": "feature-extraction"},
    "tokenizer.json": {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}}},
}


def written(directory: Path, files: dict[str, bytes]) -> Path:
    (directory / "1_Pooling").mkdir(parents=True)
    for name in ("model.safetensors", "1_Pooling/config.json"):
        (directory / name).write_bytes(b"{}")
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


GOOD = {name: json.dumps(document).encode() for name, document in FILES.items()}


def test_the_whole_one_is_accepted(tmp_path: Path) -> None:
    assert inspect(written(tmp_path / "m", GOOD), trust_remote_code=False).weight_bytes == 4


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(FILES)), st.booleans())
def test_any_configuration_is_read_or_refused(rng: random.Random, name: str, trusted: bool) -> None:
    read(name, broken_json(rng, FILES[name]), trusted)


def read(name: str, content: bytes, trusted: bool = False) -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = written(Path(root) / "m", {**GOOD, name: content})
        try:
            anatomy = inspect(directory, trust_remote_code=trusted)
        except InvalidModel as error:
            refusal = str(error)
        else:
            assert anatomy.transformer_dir.resolve().is_relative_to(directory.resolve())
            return
        assert root not in refusal
        " ".join(refusal.split()).encode()


def module(path: str) -> bytes:
    modules = [{**FILES["modules.json"][0], "path": path}, FILES["modules.json"][1]]
    return json.dumps(modules).encode()


@given(
    st.text(max_size=20)
    | st.sampled_from(("\0", "nowhere", "a\0b", "1_Pooling", ".", "x" * 5000, "model.safetensors"))
)
@example("\0")
@example("nowhere")
@example("model.safetensors")
@example("\ud800")
@example("x" * 5000)
def test_any_path_of_a_module_is_inside_or_refused(path: str) -> None:
    read("modules.json", module(path))


def test_deep_nesting_is_refused() -> None:
    for name in FILES:
        read(name, deep(100_000).encode())


@given(
    st.text(max_size=30) | st.sampled_from(("../m", "m/..", "/etc", "m\0", "m/m/m", ".", "~", "m", "owner/m"))
)
def test_any_name_is_found_below_the_sources_or_nowhere(name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        for part in ("sources/m", "sources/owner/m", "m", "scratch"):
            written(Path(root) / part, GOOD)
        sources, scratch = Path(root) / "sources", Path(root) / "scratch"
        try:
            found = find(name, None, [sources], scratch, Silent())
        except (InvalidModelName, SourceNotFound, InvalidModel):
            return
        assert found.directory.resolve().is_relative_to(sources.resolve())
        assert fingerprint(found.directory)


class Silent(JsonProgress):
    """Progress that nobody reads."""

    def __init__(self) -> None:
        pass

    def step(self, step: str, progress: float, message: str) -> None:
        del step, progress, message


@given(
    st.lists(
        st.text("ab./*_-", max_size=8) | st.sampled_from(("a.safetensors", "b/x.bin", "x.py", "../a.json")),
        max_size=6,
    )
)
def test_what_is_fetched_of_a_repository_is_in_it_and_no_code(files: list[str]) -> None:
    needed = hub.needed(files)
    assert set(needed) <= set(files)
    assert not any(name.endswith(".py") for name in needed)
