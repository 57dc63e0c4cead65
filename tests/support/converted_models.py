"""Converted tiny models that many tests begin from: a repository to be copied from, and its sources.

    python -m tests.support.converted_models DIRECTORY

makes all of them in one process, which imports torch once; the fixture `stock` runs it once for all test
processes.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from converters.job import Request
from triton_models.contract.names import clip_served_names, served_name

BERT, STATIC, NORMALIZED, CLIP = "tiny/bert", "tiny/static", "tiny/other", "hf-hub:tiny/clip"
"""The second's vectors have the lengths of their tokens' means, the third's have unit length."""


@dataclass(frozen=True)
class Stock:
    """Directories of the sources and of what was converted from them."""

    sources: Path
    repository: Path

    def put(self, repository: Path, model: str, name: str | None = None) -> list[Path]:
        """Copy a model, under another name as if it had been converted under it; the served directories."""
        return [
            copied(self.repository / served, repository / new, name or model)
            for served, new in zip(served_names(model), served_names(name or model), strict=True)
        ]


def served_names(model: str) -> tuple[str, ...]:
    """Of the parts that a model is served as."""
    if not model.startswith("hf-hub:"):
        return (served_name(model),)
    names = clip_served_names(model, "")
    return names.text, names.image


def copied(converted: Path, directory: Path, name: str) -> Path:
    """One served directory copied to `directory`, as a part of the model `name`."""
    shutil.copytree(converted, directory)
    (manifest,) = directory.glob("*/model.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "model_name": name}))
    config = directory / "config.pbtxt"
    config.write_text(config.read_text().replace(f'name: "{converted.name}"', f'name: "{directory.name}"'))
    return directory


def make(stock: Stock) -> None:
    """Write the sources and convert them, by the converter's own functions."""
    from converters.__main__ import collect_seldom
    from converters.clip.pipeline import run
    from converters.progress import JsonProgress
    from converters.sentence_transformer import pipeline
    from tests.support import tiny_clip, tiny_models

    collect_seldom()
    tiny_models.transformer_model(stock.sources / BERT)
    tiny_models.static_model(stock.sources / STATIC, normalize=False)
    tiny_models.static_model(stock.sources / NORMALIZED)
    tiny_clip.write_clip(stock.sources / "tiny" / "clip", tiny_clip.config())
    progress = JsonProgress(sys.stderr)
    for name in (BERT, STATIC, NORMALIZED, CLIP):
        request = Request(
            model_name=name,
            output=stock.repository,
            revision=None,
            sources=[stock.sources],
            trust_remote_code=False,
            threads=os.cpu_count() or 1,
            locked=False,
        )
        if name == CLIP:
            run(request, "", progress)
        else:
            pipeline.run(request, progress)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    make(Stock(root / "sources", root / "repository"))
