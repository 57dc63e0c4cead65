"""The CLIP towers in process, without a server, decoding included.

    python -m benchmarks.compare.clip.in_process open_clip ROUND SECONDS
    python -m benchmarks.compare.clip.in_process engine ROUND SECONDS VERSION_DIRECTORY
    python -m benchmarks.compare.clip.in_process fixed77 ROUND SECONDS

`open_clip` must run first: it writes the vectors with which all contestants are compared. The last line
printed is JSON.
"""

import io
import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.compare.clip.contestants import DIRECTORY
from benchmarks.compare.clip.targets import CLIP
from benchmarks.compare.in_process import rate
from benchmarks.compare.inputs import SAMPLE, SAMPLE_SEED, Inputs, sample
from benchmarks.compare.rounds import REFERENCE
from benchmarks.loadtest.machine import cores
from triton_models.contract.accuracy import LEAST_COSINE, cosines

CORES = cores()
BATCHES = (8, 16, 32)
TEXT_BATCHES = (1, 16, 64)
IMAGES = 256
_CAPTIONS, _IMAGES = CLIP.samples

Decode = Callable[[bytes], Any]
Vectors = NDArray[np.float32]
Run = Callable[[list[Any]], Vectors]


def image_rates(
    decode: Decode, run: Run, images: Sequence[bytes], batch: int, seconds: float
) -> dict[str, float]:
    """Return images per second for each way in which decoding and the tower share the cores."""
    files = cycle(images)
    with ThreadPoolExecutor(CORES) as pool:

        def decoding() -> list["Future[Any]"]:
            return [pool.submit(decode, one) for one in islice(files, batch)]

        def finish(batch: list["Future[Any]"]) -> None:
            run([one.result() for one in batch])

        ahead = deque([decoding()])

        def overlapped() -> None:
            ahead.append(decoding())
            finish(ahead.popleft())

        return {
            f"batch {batch}, in turns": rate(lambda: finish(decoding()), seconds) * batch,
            f"batch {batch}, overlapped": rate(overlapped, seconds) * batch,
        }


def best_image_rate(decode: Decode, run: Run, images: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Return images per second by batch size and way, the fastest as `best`, and for the tower alone."""
    decoded = [decode(one) for one in images[:16]]
    run(decoded)
    found: dict[str, float] = {}
    for batch in BATCHES:
        found |= image_rates(decode, run, images, batch, seconds)
    return {**found, "best": max(found.values()), "tower alone": rate(lambda: run(decoded), seconds) * 16}


def measure_open_clip(inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Measure encode_image with open_clip's own transform, and encode_text with its tokenizer."""
    from benchmarks.compare.clip.model import CHECKPOINT, NAME, open_clip, torch

    torch.set_num_threads(CORES)
    model, transform = open_clip.create_model_from_pretrained(NAME, str(DIRECTORY / "sources" / CHECKPOINT))
    model.eval()
    tokenizer = open_clip.get_tokenizer(NAME)

    def decode(data: bytes) -> Any:  # noqa: ANN401 - a tensor
        return transform(Image.open(io.BytesIO(data)))

    @torch.inference_mode()
    def run(pixels: list[Any]) -> Vectors:
        return np.asarray(model.encode_image(torch.stack(pixels)))

    @torch.inference_mode()
    def texts(captions: Sequence[str]) -> Vectors:
        return np.asarray(model.encode_text(tokenizer(list(captions))))

    images = run([decode(image) for image in _sample_images()])
    vectors = {_CAPTIONS: texts(sample(["captions"])), _IMAGES: images}
    np.savez(REFERENCE, **vectors)
    captions = inputs.take("captions", 64)
    return {
        "images": best_image_rate(decode, run, inputs.images(IMAGES), seconds),
        "captions": rate(lambda: texts(captions), seconds) * len(captions),
    }


def measure_engines(inputs: Inputs, seconds: float, version: Path) -> dict[str, Any]:
    """Measure every engine that keeps to the reference, with the gateway's own decoding."""
    from gateway.images.preprocessing import open_image, preprocess
    from triton_models.backends.onnxruntime.image_engine import ImageEngine
    from triton_models.backends.onnxruntime.image_engine_selection import IMAGE_ENGINES, image_engine_for
    from triton_models.contract.manifest import Manifest

    spec = Manifest.from_json((version / "model.json").read_text(encoding="utf-8")).image
    assert spec is not None
    preprocessing = spec
    compared = np.load(REFERENCE)[_IMAGES]

    def decode(data: bytes) -> NDArray[np.uint8]:
        return preprocess(open_image(data, 1 << 30), preprocessing)

    images = inputs.images(IMAGES)
    found: dict[str, Any] = {}
    for name in IMAGE_ENGINES:
        try:
            engine = ImageEngine(version / "model.onnx", CORES, name)
            vectors = engine.run(np.stack([decode(image) for image in _sample_images()]))
        except (RuntimeError, ImportError) as error:
            found[str(name)] = {"refused": str(error).partition("\n")[0]}
            continue
        least = float(cosines(vectors, compared).min())
        if least < LEAST_COSINE:
            found[str(name)] = {"refused": f"cosine {least:.6f} to open_clip"}
            continue
        run: Run = lambda pixels, tower=engine: tower.run(np.stack(pixels))  # type: ignore[misc]  # noqa: E731
        found[str(name)] = {"least_cosine": least, **best_image_rate(decode, run, images, seconds)}
    best = max(one["best"] for one in found.values() if "best" in one)
    return {"engines": found, "best": best, "chosen": str(image_engine_for(version, CORES))}


def measure_fixed77(inputs: Inputs, seconds: float) -> dict[str, Any]:
    """Measure the text tower with all 77 tokens on ONNX Runtime in fp32, without tokenising."""
    import onnxruntime

    from benchmarks.compare.clip.model import NAME, open_clip

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(str(DIRECTORY / "fixed77.onnx"), options)
    tokenizer = open_clip.get_tokenizer(NAME)
    vectors = session.run(None, {"input_ids": tokenizer(sample(["captions"])).numpy()})[0]
    least = float(cosines(vectors, np.load(REFERENCE)[_CAPTIONS]).min())
    assert least >= LEAST_COSINE, f"the fixed export is wrong: cosine {least}"
    found = {}
    for batch in TEXT_BATCHES:
        ids = tokenizer(inputs.take("captions", batch)).numpy()
        session.run(None, {"input_ids": ids})
        run = partial(session.run, None, {"input_ids": ids})
        found[f"batch {batch}"] = rate(run, seconds) * batch
    return {**found, "best": max(found.values())}


def _sample_images() -> list[bytes]:
    return Inputs(SAMPLE_SEED).images(SAMPLE["images"])


def main(part: str, number: int, seconds: float, *version: str) -> None:
    """Measure one part and print JSON."""
    inputs = Inputs(number)
    if part == "open_clip":
        measured = measure_open_clip(inputs, seconds)
    elif part == "engine":
        measured = measure_engines(inputs, seconds, Path(version[0]))
    else:
        measured = measure_fixed77(inputs, seconds)
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
