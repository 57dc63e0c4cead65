"""`SentenceTransformer.encode` in process: the vectors that all must agree with, and its speed.

Runs in the environment `plain`. Usage: python reference.py MODEL_DIRECTORY TEXTS.json SECONDS VECTORS.npy
TEXTS.json holds {"glosses", "sample", "singles"}: lists of texts. The last line printed is JSON.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

BULK_TEXTS = 2048


def throughput(model: SentenceTransformer, texts: Sequence[str], seconds: float) -> float:
    """Texts a second of encode(batch_size=32), which sorts what it is given; all texts in one call."""
    passes = 0
    start = time.perf_counter()
    while passes == 0 or time.perf_counter() - start < seconds:
        model.encode(list(texts), batch_size=32, show_progress_bar=False)
        passes += 1
    return passes * len(texts) / (time.perf_counter() - start)


def main(directory: str, texts: dict[str, list[str]], seconds: float, vectors: Path) -> None:
    """Measure, write the vectors of the sample, and print JSON."""
    model = SentenceTransformer(directory)
    np.save(vectors, model.encode(texts["sample"], batch_size=32, show_progress_bar=False))
    times = []
    for text in texts["singles"][:100]:
        start = time.perf_counter()
        model.encode([text], show_progress_bar=False)
        times.append(time.perf_counter() - start)
    speed = throughput(model, texts["glosses"][:BULK_TEXTS], seconds)
    print(json.dumps({"glosses": speed, "single_ms": float(np.median(times)) * 1000}))


if __name__ == "__main__":
    main(
        sys.argv[1],
        json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")),
        float(sys.argv[3]),
        Path(sys.argv[4]),
    )
