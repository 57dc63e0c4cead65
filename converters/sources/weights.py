"""Contents of weight files, read from their headers: nothing is unpacked or run.

Does not import torch.
"""

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import InvalidModel
from converters.sources.configuration import read_json

# Bytes of a number in half precision; smaller types need libraries that are not installed.
_LEAST_BYTES = 2
_LONGEST_HEAD = 100 * 2**20
# So many numbers more are harmless for any model: 64 MB in float32.
_SPARE = 16 << 20
_DEEPEST = 1024
_COUNTS = ("layers", "layer", "blocks", "experts", "depth")


@dataclass(frozen=True)
class Stored:
    """The weights of one file or directory.

    Attributes:
        elements: Count of numbers.
        unpacked: Size in bytes, unpacked.
        tensors: Count of tensors; 0 if unknown.
    """

    elements: int
    unpacked: int
    tensors: int

    def refuse_beyond(self, claimed: int, what: str, factor: int = 2) -> None:
        """Refuse a configuration that makes the libraries allocate far more numbers than are stored.

        Args:
            claimed: Count of numbers that the configuration asks for.
            what: Name of the configuration, for the message.
            factor: Accepted ratio of claimed to stored numbers; it allows for heads that are not stored and
                tables that are computed.

        Raises:
            InvalidModel: The configuration claims more.
        """
        if claimed > factor * self.elements + _SPARE:
            raise InvalidModel(
                f"{what} asks for {claimed:,} weights and the files hold {self.elements:,}; "
                "the configuration does not belong to these weights"
            )


def stored(directory: Path) -> Stored:
    """Return the weights directly in a directory; if there are two formats, those of one."""
    paths = [path for path in directory.iterdir() if path.suffix in (".safetensors", ".bin")]
    paths = [path for path in paths if path.suffix == ".safetensors"] or paths
    elements = unpacked = tensors = 0
    for path in paths:
        of_file = of(path)
        elements, unpacked = elements + of_file.elements, unpacked + of_file.unpacked
        tensors += of_file.tensors
    return Stored(elements, unpacked, tensors)


def of(path: Path) -> Stored:
    """Return the weights of one file.

    If its header cannot be read, they are estimated by the file's size; the libraries report the damage.
    """
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        shapes = _shapes(path, size)
        elements = sum(map(math.prod, shapes))
        # A header may claim anything; the library compares it with the bytes only later.
        if shapes and elements * _LEAST_BYTES <= 2 * size:
            return Stored(elements, size, len(shapes))
    elif zipfile.is_zipfile(path):
        # torch writes such archives. It also reads compressed ones.
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            entries = []
        size = max(size, sum(entry.file_size for entry in entries))
    return Stored(size // _LEAST_BYTES, size, 0)


def check_index(home: Path) -> None:
    """Refuse an index of weights (`model.safetensors.index.json`) that names files elsewhere.

    Raises:
        InvalidModel: The index names such files, or is broken.
    """
    for path in sorted(home.glob("*.index.json")):
        names = read_json(path, dict).get("weight_map")
        if not isinstance(names, dict):
            raise InvalidModel(f"{path.name} is broken: it has no weight_map")
        for name in names.values():
            if not isinstance(name, str) or Path(name).name != name or name == "..":
                raise InvalidModel(f"{path.name} names weights outside of the model: {str(name)[:100]!r}")


def check_depth(name: str, config: Any, tensors: int) -> None:  # noqa: ANN401 - JSON of a model's file
    """Refuse an excessive number of layers: each takes time and memory before any weight is read.

    Raises:
        InvalidModel: The configuration has more layers than the weights can belong to.
    """
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(str(inner), part) for inner, part in value.items()]
        elif isinstance(value, list):
            waiting += [(key, part) for part in value]
        elif isinstance(value, int | float) and key.endswith(_COUNTS) and value > max(_DEEPEST, tensors):
            raise InvalidModel(f"{name} asks for {value} {key}; it does not belong to these weights")


def _shapes(path: Path, size: int) -> list[list[int]]:
    """Return the shapes in a safetensors file's header; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size, _LONGEST_HEAD):
                return []
            head = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in head.items() if name != "__metadata__"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    sound = all(
        isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape) for shape in shapes
    )
    return shapes if sound else []
