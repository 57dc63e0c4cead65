"""Converted tiny models that many tests start from: a repository to copy from, and its sources.

    python -m tests.support.converted_models DIRECTORY

makes all of them in one process, so torch is imported once. The fixture `stock` runs it once for all test
processes.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from converters.job import Request
from triton_models.contract.names import clip_triton_names, triton_name_of

BERT, STATIC, NORMALIZED, CLIP = "tiny/bert", "tiny/static", "tiny/other", "hf-hub:tiny/clip"
"""Vectors of STATIC are plain means of their tokens' vectors; those of NORMALIZED have unit length."""
RANKER, LABELS = "tiny/ranker", "tiny/labels"
"""Cross-encoders: a checkpoint of transformers with one label, and a saved CrossEncoder with three."""


@dataclass(frozen=True)
class Stock:
    """Directories of the sources and of the models converted from them."""

    sources: Path
    repository: Path

    def put(self, repository: Path, model: str, name: str | None = None) -> list[Path]:
        """Copy a model into a repository, as if converted under `name`; return its directories."""
        return [
            copied(self.repository / triton_name, repository / new, name or model)
            for triton_name, new in zip(triton_names(model), triton_names(name or model), strict=True)
        ]


def triton_names(model: str) -> tuple[str, ...]:
    """Return the names in Triton of a model's parts."""
    if not model.startswith("hf-hub:"):
        return (triton_name_of(model),)
    names = clip_triton_names(model, "")
    return names.text, names.image


def copied(converted: Path, directory: Path, name: str) -> Path:
    """Copy a converted part to `directory`, as a part of the model `name`."""
    shutil.copytree(converted, directory)
    (manifest,) = directory.glob("*/model.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "model_name": name}))
    config = directory / "config.pbtxt"
    config.write_text(config.read_text().replace(f'name: "{converted.name}"', f'name: "{directory.name}"'))
    return directory


def make(stock: Stock) -> None:
    """Write the sources and convert them with the converter's own functions."""
    from converters.__main__ import collect_seldom
    from converters.clip.pipeline import run
    from converters.progress import JsonProgress
    from converters.sentence_transformer import pipeline
    from tests.support import tiny_clip, tiny_models, tiny_pairs

    collect_seldom()
    tiny_models.transformer_model(stock.sources / BERT)
    tiny_models.static_model(stock.sources / STATIC, normalize=False)
    tiny_models.static_model(stock.sources / NORMALIZED)
    tiny_pairs.checkpoint(stock.sources / RANKER)
    tiny_pairs.cross_encoder(stock.sources / LABELS, labels=3)
    tiny_clip.write_clip(stock.sources / "tiny" / "clip", tiny_clip.config())
    progress = JsonProgress(sys.stderr)
    for name in (BERT, STATIC, NORMALIZED, RANKER, LABELS, CLIP):
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
