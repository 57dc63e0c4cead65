"""The texts and images of a comparison; all contestants of a round get the same ones."""

from collections.abc import Sequence

from benchmarks.loadtest.images import BuiltInImages, data_uri
from benchmarks.loadtest.texts import BuiltInTexts

SAMPLE_SEED = 1_000_003
"""The seed of the inputs whose vectors are compared, the same in every round."""

SAMPLE = {"definitions": 48, "passages": 16, "captions": 32, "images": 32}


class Inputs:
    """A source of new inputs. No two are equal, and two objects with one seed give the same sequence."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._next = 0
        self._texts: dict[str, BuiltInTexts] = {}
        self._images: BuiltInImages | None = None

    def take(self, kind: str, number: int) -> list[str]:
        """Return new texts of one kind, or images as data URIs."""
        if kind == "images":
            return [data_uri(image) for image in self.images(number)]
        made = self._texts.setdefault(kind, BuiltInTexts(kind, self._seed))
        return [made.text(serial) for serial in self._serials(number)]

    def images(self, number: int) -> list[bytes]:
        """Return new JPEG files of 640x480."""
        if self._images is None:
            self._images = BuiltInImages(self._seed)
        return [self._images.image(serial) for serial in self._serials(number)]

    def _serials(self, number: int) -> range:
        start, self._next = self._next, self._next + number
        return range(start, self._next)


def sample(kinds: Sequence[str]) -> list[str]:
    """Return the inputs that all contestants embed, to compare their vectors."""
    return [one for kind in kinds for one in Inputs(SAMPLE_SEED).take(kind, SAMPLE[kind])]


def grouped(inputs: Sequence[str], size: int) -> list[Sequence[str]]:
    """Split inputs into groups of `size`, without an incomplete one at the end."""
    return [inputs[start : start + size] for start in range(0, len(inputs) - size + 1, size)]
