"""Two hundred damaged models and more: each gives the library's vectors, or is refused with its cause.

DAMAGED=WORD tries those with the word in their names; SHOW=1 prints what became of each.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from converters.clip import pipeline as clip
from converters.errors import ConversionError
from converters.job import Request
from converters.sentence_transformer import pipeline
from tests.converters.conftest import Steps
from tests.support.damage import Damage, damages
from tests.support.tiny_clip import config, write_clip
from tests.support.tiny_models import static_model, transformer_model
from triton_models.contract.accuracy import LEAST_COSINE
from triton_models.contract.manifest import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * 3600), pytest.mark.filterwarnings("default")]

MODELS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "bert": (lambda path: transformer_model(path, dense=16, layer_norm=True), ["qwen3", "static"]),
    "qwen3": (lambda path: transformer_model(path, "qwen3", prompts={"query": "q: "}), ["bert", "unigram"]),
    "unigram": (lambda path: transformer_model(path, "xlm_roberta"), ["bert"]),
    "static": (static_model, ["bert"]),
    "clip": (lambda path: write_clip(path, config()), []),
}
"""How each sound model is made, and the models whose files are put in place of its own."""

CHANGED_JSON = {"clip": 6}
"""Random changes to each JSON file; 3 unless named here."""

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NO_CAUSES = ("server's log", "ended before", "the server itself", "without an error", "internal")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    for name, (make, _) in MODELS.items():
        make(root / name)
    return root


def cases(sound: Path, name: str) -> Iterator[Damage]:
    others = [sound / other for other in MODELS[name][1]]
    yield from damages(sound / name, others, len(name), CHANGED_JSON.get(name, 3))


def convert(sources: Path, repository: Path, name: str) -> dict[str, Manifest]:
    request = Request(
        model_name=f"hf-hub:{name}" if name == "clip" else name,
        output=repository,
        revision=None,
        sources=[sources],
        trust_remote_code=False,
        threads=1,
        locked=False,
    )
    return clip.run(request, "", Steps()) if name == "clip" else pipeline.run(request, Steps())


def outcome(sound: Path, name: str, damage: Damage, root: Path) -> str:
    """Convert a damaged copy; return "converted", "refused: ..." or "WRONG: ..."."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound / name, root / "sources" / name)
    damage.apply(root / "sources" / name)
    try:
        manifests = convert(root / "sources", root / "repository", name)
    except ConversionError as error:
        message = str(error)
        fine = (
            len(message) > 20
            and not CONTROLS.search(message)
            and not any(word in message for word in (*NO_CAUSES, "Traceback", str(root)))
        )
        return f"{'refused' if fine else 'WRONG'}: {error.kind}: {message!r}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - these are the findings
        return f"WRONG: {type(error).__name__}: {error}"
    least = min(manifest.check["min_cosine"] for manifest in manifests.values())
    return "converted" if least >= LEAST_COSINE else f"WRONG: cosine {least}"


def test_there_are_enough(sound: Path) -> None:
    found = [f"{name}: {damage.name}" for name in MODELS for damage in cases(sound, name)]
    assert len(found) >= 200
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", MODELS)
def test_each_converts_or_says_why_not(
    sound: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert outcome(sound, name, Damage("none", lambda _: None), tmp_path / "case") == "converted"
    wrong = []
    for damage in cases(sound, name):
        if os.environ.get("DAMAGED", "") not in damage.name:
            continue
        found = outcome(sound, name, damage, tmp_path / "case")
        if "SHOW" in os.environ:
            sys.stderr.write(f"{name}: {damage.name}: {found}\n")
        if found.startswith("WRONG"):
            wrong.append(f"{damage.name}: {found}")
    assert wrong == []
