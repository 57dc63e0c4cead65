"""What is sent, by serial number: each round has its own, and no load repeats another's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.loadtest.images import BuiltInImages, data_uri
from benchmarks.loadtest.texts import BuiltInTexts

SAMPLE = 32
"""Of each kind, whose vectors are compared."""

_SAMPLE_SEED = 1_000_003


class Inputs:
    """Captions of 5 to 20 words and JPEGs of 640x480, of one round; all different."""

    def __init__(self, round_number: int) -> None:
        self._captions = BuiltInTexts("captions", round_number)
        self._images = BuiltInImages(round_number)
        self._next = 0

    def captions(self, number: int) -> list[str]:
        """New ones."""
        return [self._captions.text(serial) for serial in self._take(number)]

    def images(self, number: int) -> list[bytes]:
        """New files."""
        return [self._images.image(serial) for serial in self._take(number)]

    def _take(self, number: int) -> Iterator[int]:
        start = self._next
        self._next += number
        yield from range(start, self._next)


@dataclass(frozen=True)
class Sample:
    """The same in every round and process."""

    captions: Sequence[str]
    images: Sequence[bytes]


def sample() -> Sample:
    """What all contestants embed and are compared in."""
    inputs = Inputs(_SAMPLE_SEED)
    return Sample(inputs.captions(SAMPLE), inputs.images(SAMPLE))


def uris(images: Sequence[bytes]) -> list[str]:
    """As requests carry them."""
    return [data_uri(image) for image in images]
