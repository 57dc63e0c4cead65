"""Models without a server: sentence-transformers in fp32 and fp16, and the torch engine of this server."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks.compare.in_process import rate
from benchmarks.gpu.models import LENGTHS, LONGEST, TextModel, pack_images, texts
from triton_models.backends.onnxruntime.torch_session import TorchImages, TorchTexts
from triton_models.contract.accuracy import cosines

BATCH = 128
"""Texts of one batch, as Triton makes them at most."""
COMPARED = 256

Result = dict[str, Any]


def text_rates(model: TextModel, device: str, tokens: int, seconds: float) -> Result:
    """Measure the texts a second for each kind of `LENGTHS`, and the least cosine to fp32.

    sentence-transformers is measured as it is used, with tokenization; it sorts texts by length and pads
    batches. The torch engine gets ids, as in Triton.
    """
    library = SentenceTransformer(str(model.source), device=device)
    library.max_seq_length = LONGEST
    given = {kind: texts(kind, tokens) for kind in LENGTHS}
    ids = {
        kind: [np.array(row) for row in library.tokenizer(some)["input_ids"]] for kind, some in given.items()
    }
    found: Result = {kind: {"mean_tokens": float(np.mean([row.size for row in ids[kind]]))} for kind in given}
    reference = {kind: _encode(library, some[:COMPARED]) for kind, some in given.items()}
    for precision in ("fp32", "fp16"):
        library = library.half() if precision == "fp16" else library
        for kind, some in given.items():
            work = partial(_encode, library, some)
            _note(found[kind], f"library {precision}", work, len(some), reference[kind], seconds)
    del library
    for precision in ("fp16", "bf16"):
        start = time.perf_counter()
        engine = TorchTexts(model.packed, device, precision)
        found[f"opened {precision}, s"] = time.perf_counter() - start
        found[f"CUDA graphs {precision}, tokens"] = engine.graphs
        for kind, rows in ids.items():
            work = partial(_run, engine, rows)
            _note(found[kind], f"packed {precision}", work, len(rows), reference[kind], seconds)
            alone = rate(partial(_run, engine, rows[:1]), seconds / 4)
            found[kind][f"one text {precision}, ms"] = 1000 / alone
    return found


def _note(
    found: Result,
    method: str,
    work: Callable[[], NDArray[np.float32]],
    number: int,
    reference: NDArray[np.float32],
    seconds: float,
) -> None:
    # The first call warms up.
    vectors = work()[: len(reference)]
    found[f"cosine of {method}"] = float(cosines(vectors, reference).min())
    found[method] = rate(work, seconds) * number


def image_rates(name: str, directory: Path, device: str, seconds: float, *, quick: bool) -> Result:
    """Measure the images a second of a tower alone: as it is in fp32 and fp16, and in the torch engine."""
    graph, height = pack_images(name, directory, quick=quick)
    batches = (1, 2) if quick else (1, 64)
    choice = np.random.default_rng(1)
    images = choice.integers(0, 256, (max(batches), height, height, 3), dtype=np.uint8)
    found: Result = {}
    graph.to(device)
    reference = _embed(graph, device, images)
    for method in ("open_clip fp32", "open_clip fp16", "packed fp16"):
        run: Callable[[NDArray[np.uint8]], NDArray[np.float32]] = partial(_embed, graph, device)
        if method == "open_clip fp16":
            graph.visual.half()
        elif method == "packed fp16":
            run = TorchImages(directory, device, "fp16").run
        for batch in batches:
            some = images[:batch]
            name = f"{method}, {batch} at once"
            _note(found, name, partial(run, some), batch, reference[:batch], seconds)
    return found


def _encode(library: SentenceTransformer, some: list[str]) -> NDArray[np.float32]:
    return np.asarray(library.encode(some, batch_size=BATCH, show_progress_bar=False), np.float32)


def _embed(graph: torch.nn.Module, device: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        vectors: NDArray[np.float32] = graph(torch.from_numpy(images).to(device)).cpu().numpy()
    return vectors


def _run(engine: TorchTexts, rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        parts.append(engine.run(np.concatenate(some), np.array([row.size for row in some], np.int32)))
    return np.concatenate(parts)
