"""A small real inference, past the cache and compared with the reference: the proof that a model serves."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_models.client.client import TritonClient
from triton_models.contract.accuracy import BOUNDS, cosines
from triton_models.contract.manifest import Manifest
from triton_models.contract.tokens import past_cache
from triton_models.repository.repository import Repository

LENGTH = 32
"""Tokens of a probe, where the model's record has a text so long: enough flags that no two are alike."""

TOUCHED = 8
"""Pixels of an image that a probe changes by one, so that no two are alike."""


class WrongVector(Exception):
    """A model answered another vector than was recorded at its conversion."""


@dataclass(frozen=True)
class Probe:
    """What is asked of a model.

    rows: int64 [1, L], or an image uint8 [1, H, W, 3]. expected: float32 [1, D].
    """

    served: str
    manifest: Manifest
    rows: NDArray[Any]
    expected: NDArray[np.float32]

    @classmethod
    def read(cls, repository: Repository, served: str) -> "Probe":
        """The shortest text that was recorded at conversion and is long enough, or the first image.

        Raises:
            RepositoryError: what was recorded cannot be read.
        """
        manifest = repository.manifest(served)
        if manifest.tower == "image":
            images = repository.load_image_check(served)
            return cls(served, manifest, images.images[:1], images.embeddings[:1])
        check = repository.load_check(served)
        fit = np.where(check.lengths >= LENGTH, check.lengths, np.iinfo(np.int32).max)
        index = int(fit.argmin() if (check.lengths >= LENGTH).any() else check.lengths.argmax())
        end = int(check.lengths[: index + 1].sum())
        row = check.input_ids[end - int(check.lengths[index]) : end]
        return cls(served, manifest, row.reshape(1, -1), check.embeddings[index : index + 1])

    async def ask(self, client: TritonClient, timeout: float) -> None:
        """Return when the model has answered, and right.

        Raises:
            WrongVector: the answer is not what was recorded.
            TritonError: there is none. timeout: in seconds.
        """
        name, version = self.served, self.manifest.version
        if self.manifest.tower == "image":
            vectors = await client.infer_images(name, version, touched(self.rows), timeout=timeout)
        else:
            vectors = await client.infer(name, version, past_cache(self.rows[0]), timeout=timeout)
        lowest = float(cosines(vectors, self.expected).min())
        # Eight pixels a little lighter are another image, if hardly: the bound of texts would be too near.
        least = 0.99 if self.manifest.tower == "image" else BOUNDS[self.manifest.precision].reference
        if not lowest >= least:
            raise WrongVector(f"cosine {lowest:.6f} to the reference, at least {least} is needed")


def touched(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image, uint8 [1, H, W, 3], with a few numbers changed by one, in bytes that no request had."""
    changed = image.copy()
    places = np.random.default_rng().integers(0, image.size, TOUCHED)
    changed.reshape(-1)[places] ^= 1
    return changed
