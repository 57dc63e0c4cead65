"""Probes a model with a small real inference, past the cache, and compares the vector with the reference."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_models.client.client import TritonClient
from triton_models.contract.config import output_of
from triton_models.contract.manifest import Manifest
from triton_models.contract.tokens import past_cache
from triton_models.repository.repository import Repository

LENGTH = 32
"""Fewest tokens of a probe, if a recorded text is that long: enough random flags to make each unique."""

TOUCHED = 8
"""Numbers of an image that a probe changes by one, so that each probe is unique."""


class WrongVector(Exception):
    """A model returned a vector that differs from the one recorded at its conversion."""


@dataclass(frozen=True)
class Probe:
    """An input for a model, and the vector that the model must return for it.

    Attributes:
        triton_name: The model's name in Triton.
        manifest: The model's.
        rows: Token ids int64 [1, L], or an image uint8 [1, H, W, 3].
        expected: float32 [1, D].
    """

    triton_name: str
    manifest: Manifest
    rows: NDArray[Any]
    expected: NDArray[np.float32]

    @classmethod
    def read(cls, repository: Repository, triton_name: str) -> "Probe":
        """Read a probe from the conversion's record: the shortest text of LENGTH tokens or more, or an image.

        Raises:
            RepositoryError: The record cannot be read.
        """
        manifest = repository.manifest(triton_name)
        if manifest.tower == "image":
            images = repository.load_image_check(triton_name)
            return cls(triton_name, manifest, images.images[:1], images.embeddings[:1])
        check = repository.load_check(triton_name)
        fit = np.where(check.lengths >= LENGTH, check.lengths, np.iinfo(np.int32).max)
        index = int(fit.argmin() if (check.lengths >= LENGTH).any() else check.lengths.argmax())
        end = int(check.lengths[: index + 1].sum())
        row = check.input_ids[end - int(check.lengths[index]) : end]
        return cls(triton_name, manifest, row.reshape(1, -1), check.embeddings[index : index + 1])

    async def ask(self, client: TritonClient, timeout: float) -> None:
        """Send the probe and check the answer.

        Args:
            client: The client of Triton.
            timeout: In seconds.

        Raises:
            WrongVector: The answer differs from the recorded vector.
            TritonError: There is no answer.
        """
        name, version = self.triton_name, self.manifest.version
        if self.manifest.tower == "image":
            vectors = await client.infer_images(name, version, touched(self.rows), timeout=timeout)
        else:
            row, output = past_cache(self.rows[0]), output_of(self.manifest)
            vectors = await client.infer(name, version, row, timeout=timeout, output=output)
        bounds = self.manifest.bounds
        lowest = float(bounds.agreement(vectors, self.expected).min())
        # The changed numbers make it a slightly different image, for which the bound of texts is too tight.
        least = 0.99 if self.manifest.tower == "image" else bounds.reference
        if not lowest >= least:
            raise WrongVector(f"compared with the reference: {bounds.describe(lowest, least)}")


def touched(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image, uint8 [1, H, W, 3], with a few numbers changed by one, so that no cache has it."""
    changed = image.copy()
    places = np.random.default_rng().integers(0, image.size, TOUCHED)
    changed.reshape(-1)[places] ^= 1
    return changed
