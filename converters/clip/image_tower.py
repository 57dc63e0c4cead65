"""Image tower of a CLIP model: its graph, the images of the check, and the check itself.

image uint8 [batch, H, W, 3]  ->  image_embedding float32 [batch, D]
"""

import importlib.util
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from converters.clip.text_tower import first_of
from converters.errors import CheckFailed
from converters.verification.budget import Budget, check_seconds
from converters.verification.check import NORM_TOLERANCE, CheckResult
from converters.verification.engine_check import check_with_fastest
from triton_models.backends.onnxruntime.engine_selection import Selection
from triton_models.backends.onnxruntime.image_engine import ImageEngine
from triton_models.backends.onnxruntime.image_engine_selection import select_for_images
from triton_models.contract.accuracy import LEAST_ALONE, LEAST_COSINE, cosines
from triton_models.contract.checks import ImageCheck

NOISE = 12
GRADIENTS = 8
PHOTOGRAPHS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "camera.png",
)
"""Files of scikit-image, used if it is installed."""
ALWAYS = 12
"""Number of the first check images that every check has."""
LEAST_BATCHES, BATCHES = 8, 16
LARGEST_BATCH = 12
KEPT_IMAGES = 6

Pixels = NDArray[np.uint8]
Run = Callable[[Pixels], NDArray[np.float32]]


class ImageGraph(nn.Module):
    """Scaling of the pixel values, their normalisation, and the tower.

    Args:
        visual: The tower.
        mean: Mean of each of the three colours, for values from 0 to 1.
        std: Standard deviation of each of the three colours, for values from 0 to 1.
        normalize: Whether the tower's vectors get unit length.
    """

    def __init__(
        self, visual: nn.Module, mean: Sequence[float], std: Sequence[float], *, normalize: bool
    ) -> None:
        super().__init__()
        self.visual = visual
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.normalize = normalize

    def forward(self, image: Tensor) -> Tensor:
        """Return float32 [batch, D] for uint8 [batch, H, W, 3]."""
        pixels = image.to(torch.float32).permute(0, 3, 1, 2) / 255.0
        # The torch engine computes the tower in half precision.
        scaled = ((pixels - self.mean) / self.std).to(next(self.visual.parameters()).dtype)
        vectors = first_of(self.visual(scaled)).to(torch.float32)
        return functional.normalize(vectors, dim=-1) if self.normalize else vectors


def check_images(height: int, width: int, resized: Callable[[Image.Image], Pixels]) -> list[Pixels]:
    """Return noise, gradients, plain images and photographs, the same at every call: uint8 [H, W, 3] each.

    A check that ends early has the first of them, which are of all kinds.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        resized: Brings a picture to this size as open_clip does.
    """
    random_numbers = np.random.default_rng(20240917)
    images = [np.full((height, width, 3), level, np.uint8) for level in (0, 255)]
    images += [resized(picture) for picture in _photographs()]
    noise = [random_numbers.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(NOISE)]
    gradients = [_gradient(random_numbers, height, width) for _ in range(GRADIENTS)]
    return [
        *images,
        *(image for pair in zip(noise, gradients, strict=False) for image in pair),
        *noise[GRADIENTS:],
    ]


def _gradient(random_numbers: np.random.Generator, height: int, width: int) -> Pixels:
    """Return smooth waves with their own frequencies per colour: pictures are smooth, noise is not."""
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    waves = [
        np.sin(6.28 * (frequency[0] * down + frequency[1] * across) + phase)
        for frequency, phase in zip(
            random_numbers.uniform(-3, 3, (3, 2)), random_numbers.uniform(0, 6.28, 3), strict=True
        )
    ]
    waved: Pixels = ((np.stack(waves, axis=-1) + 1) * 127.5).astype(np.uint8)
    return waved


def _photographs() -> list[Image.Image]:
    """Return the photographs of scikit-image; none if it is not installed."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        return []
    directory = Path(spec.origin).parent / "data"
    return [Image.open(directory / name) for name in PHOTOGRAPHS if (directory / name).is_file()]


def verify(check: ImageCheck, path: Path, threads: int, report: Callable[[float, str], None]) -> CheckResult:
    """Check the model at `path` with the engine that will serve, and record that engine beside the model.

    Raises:
        CheckFailed: As in `engine_check.check_with_fastest`.
    """

    def checked(selection: Selection) -> CheckResult:
        least_alone = LEAST_COSINE if selection.fixed_by_operator else LEAST_ALONE
        engine = ImageEngine(path, threads, selection.name)
        return compare(engine.run, check, report, least_alone, check_seconds())

    return check_with_fastest(
        lambda without: select_for_images(path, kept(check), threads, without), checked, path.parent
    )


def compare(
    run: Run,
    check: ImageCheck,
    report: Callable[[float, str], None],
    least_alone: float,
    seconds: float = math.inf,
) -> CheckResult:
    """Compare images, alone and in mixed batches, with the reference: the first `ALWAYS`, and more in time.

    Raises:
        CheckFailed: A vector is wrong or depends on its batch; if a cosine is too low, the message has the
            number of the worst image.
    """
    parts = []
    budget = Budget(seconds)
    for number, image in enumerate(check.images):
        if number >= ALWAYS and budget.is_over:
            break
        parts.append(run(image[np.newaxis]))
        report(0.4 * (number + 1) / len(check.images), "Comparing every image alone")
    alone = np.concatenate(parts)
    images, vectors = check.images[: len(alone)], check.embeddings[: len(alone)]
    _check_norms(alone, vectors)
    to_reference = cosines(alone, vectors)
    to_alone = np.ones_like(to_reference)
    budget = Budget(seconds)
    batches = mixed_batches(len(images))
    number = 0
    for number, rows in enumerate(batches, start=1):
        together = run(images[rows])
        to_reference[rows] = np.minimum(to_reference[rows], cosines(together, vectors[rows]))
        to_alone[rows] = np.minimum(to_alone[rows], cosines(together, alone[rows]))
        report(0.4 + 0.6 * number / len(batches), "Comparing mixed batches")
        if number >= LEAST_BATCHES and budget.is_over:
            break
    for values, least, what in (
        (to_reference, LEAST_COSINE, "the converted image tower differs from the reference"),
        (to_alone, least_alone, "an image's vector depends on its batch"),
    ):
        if not values.min() >= least:
            raise CheckFailed(
                f"{what}: cosine {values.min():.6f}, at least {least} is needed, for check image "
                f"{int(values.argmin())}"
            )
    worst = f"check image {int(to_reference.argmin())}"
    return CheckResult(len(images), number, float(to_reference.min()), float(to_alone.min()), worst)


def mixed_batches(count: int) -> list[list[int]]:
    """Return the rows of each batch, in random orders and sizes that are the same at every call."""
    choice = random.Random(11)  # noqa: S311 - the same batches every time, no secret
    return [choice.sample(range(count), choice.randint(2, min(LARGEST_BATCH, count))) for _ in range(BATCHES)]


def kept(check: ImageCheck) -> ImageCheck:
    """Return the part of the check that is repeated after each load: a few images, evenly spread."""
    places = np.unique(np.linspace(0, len(check.images) - 1, KEPT_IMAGES).round().astype(int))
    return ImageCheck(check.images[places], check.embeddings[places])


def _check_norms(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> None:
    norms, expected = np.linalg.norm(vectors, axis=1), np.linalg.norm(reference, axis=1)
    if (np.abs(norms - expected) > NORM_TOLERANCE * expected).any():
        raise CheckFailed("the converted image tower's vectors have another length than the reference's")
