"""What the converter's tests share: a quiet transformers, and conversion in this process."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from converters.__main__ import collect_seldom
from converters.job import Request
from converters.progress import Step
from converters.sentence_transformer.pipeline import run
from triton_models.backends.onnxruntime.engine import Engine
from triton_models.contract.manifest import Manifest
from triton_models.repository.repository import Repository

# torch records every traced operation for pytest's log capture otherwise, at many times the cost of tracing.
logging.getLogger("torch.__trace").propagate = False
# Tiny models gain nothing from a second thread and lose much where other tests keep the cores busy.
torch.set_num_threads(1)
# As `python -m converters` does.
collect_seldom()

Convert = Callable[[str], "Converted"]


class Steps:
    """A `Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, str]] = []

    def step(self, step: Step, progress: float, message: str) -> None:
        self.steps.append((step, progress, message))

    def result(self, outcome: dict[str, object]) -> None:
        raise AssertionError(f"only the command reports a result: {outcome}")


class Converted:
    """An installed model, run by the engine that serves."""

    def __init__(self, repository: Repository, served: str, manifest: Manifest, steps: Steps) -> None:
        self.manifest = manifest
        self.steps = steps.steps
        self.directory = repository.version_dir(served)
        self.engine = Engine(self.directory / "model.onnx", 2)
        self.tokenizer = Tokenizer.from_file(str(self.directory / "tokenizer.json"))

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=self.manifest.add_special_tokens).ids)

    def embed(self, rows: list[list[int]]) -> NDArray[np.float32]:
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        return self.engine.run(np.concatenate([np.array(row, dtype=np.int64) for row in rows]), lengths)


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Convert a directory below `tmp_path / "sources"` by its name."""

    def run_conversion(name: str) -> Converted:
        steps = Steps()
        request = Request(
            model_name=name,
            output=tmp_path / "repository",
            revision=None,
            sources=[tmp_path / "sources"],
            trust_remote_code=False,
            threads=2,
            locked=False,
        )
        ((served, manifest),) = run(request, steps).items()
        return Converted(Repository(request.output), served, manifest, steps)

    return run_conversion


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "sources"
    directory.mkdir()
    return directory
